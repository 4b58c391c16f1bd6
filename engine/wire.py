"""Messages between the server and its engine process: length-prefixed pickles over a socket pair.

Pickle is safe here because both ends are this program and the socket has no name in the file system; nothing from outside is unpickled.
One message carries a whole step's events, so frames need no shared memory: a frame of samples is 4-8 KiB, and 256 streams of 21.5
frames a second make 44 MB/s where a socket pair moves gigabytes.
"""

from __future__ import annotations

import pickle
import socket
import struct

_LENGTH = struct.Struct("<I")
MAX_MESSAGE_BYTES = 256 * 2**20  # a 10-minute reference at 96 kHz float32 is 230 MB; more is a bug


def pack(message: object) -> bytes:
    """One framed message."""
    body = pickle.dumps(message, protocol=5)
    assert len(body) <= MAX_MESSAGE_BYTES, f"message of {len(body)} bytes exceeds {MAX_MESSAGE_BYTES}"
    return _LENGTH.pack(len(body)) + body


class Unpacker:
    """Bytes in, messages out, at any cutting."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[object]:
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(pickle.loads(memoryview(self._buffer)[_LENGTH.size : end]))
            del self._buffer[:end]
        return messages


class BlockingPeer:
    """The engine process's end: waits only when asked to."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._unpacker = Unpacker()

    def send(self, message: object) -> None:
        """Blocks while the server is slow to read: the back pressure that keeps frames from piling up."""
        self._socket.setblocking(True)
        self._socket.sendall(pack(message))

    def receive(self, wait: bool) -> list[object] | None:
        """What has arrived, waiting for at least one message if `wait`. None: the server is gone."""
        while True:
            self._socket.setblocking(wait)
            try:
                data = self._socket.recv(1 << 20)
            except BlockingIOError:
                return []
            except ConnectionResetError:
                return None
            if not data:
                return None
            messages = self._unpacker.feed(data)
            if messages or not wait:
                return messages

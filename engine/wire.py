"""Messages between the server and its engine process: length-prefixed pickles over a socket pair.

Pickle is safe here because both ends are this program and the socket has no name in the file system; nothing from outside is unpickled.
One message carries a whole step's events, so frames need no shared memory: a frame of samples is 4-8 KiB, and 256 streams of 21.5
frames a second make 44 MB/s where a socket pair moves gigabytes. Packing eight frames of a step takes 35 us, unpacking them 11 us.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable

_LENGTH = struct.Struct("<I")
# The largest is `Open` with its voice and history: ten minutes of codes are 260 kB. What is larger by nature crosses in pieces.
MAX_MESSAGE_BYTES = 64 * 2**20
# Of messages that the server has not read. A step of 256 streams has 2 MB to say, ten times what a socket pair holds.
MOST_WAITING_BYTES = 8 * 2**20
_READ_BYTES = 1 << 18
_MOST_READ_BYTES = 1 << 22  # at once, so that a flood of commands cannot keep the engine from stepping


class PeerGone(Exception):
    """The other end of the socket is closed."""


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
        """The messages that `data` completes."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            assert length <= MAX_MESSAGE_BYTES, f"message of {length} bytes exceeds {MAX_MESSAGE_BYTES}"
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(pickle.loads(memoryview(self._buffer)[_LENGTH.size : end]))
            del self._buffer[:end]
        return messages


class BlockingPeer:
    """The engine process's end: waits only when asked to. Every call raises PeerGone once the server is."""

    def __init__(self, sock: socket.socket) -> None:
        """sock: in blocking mode."""
        self._socket = sock
        self._unpacker = Unpacker()

    def send(self, message: object) -> None:
        """Blocks while the server is slow to read: the back pressure that keeps frames from piling up."""
        try:
            self._socket.sendall(pack(message))
        except ConnectionError as error:
            raise PeerGone from error

    def receive(self, wait: bool) -> list[object]:
        """What has arrived, waiting for at least one message if `wait`."""
        messages: list[object] = []
        read = 0
        while read < _MOST_READ_BYTES or not messages:
            try:
                data = self._socket.recv(_READ_BYTES, 0 if wait and not messages else socket.MSG_DONTWAIT)
            except BlockingIOError:
                return messages
            except ConnectionError as error:
                raise PeerGone from error
            if not data:
                raise PeerGone
            read += len(data)
            messages += self._unpacker.feed(data)
        return messages


class QueueingPeer(BlockingPeer):
    """The same where a message that the socket has no room for waits in a queue, and who sent it goes on. One thread empties it."""

    def __init__(self, sock: socket.socket) -> None:
        """sock: in blocking mode."""
        super().__init__(sock)
        self._changed = threading.Condition()
        self._waiting: deque[memoryview] = deque()  # the first one is being sent
        self._waiting_bytes = 0
        self._gone = False
        self._thread: threading.Thread | None = None

    def send(self, message: object) -> None:
        """Blocks while more than MOST_WAITING_BYTES would wait behind others: the back pressure that keeps frames from piling up."""
        left = memoryview(pack(message))
        with self._changed:
            if not self._waiting and not self._gone:  # mostly: then there is nobody to wait for
                left = left[self._sent_at_once(left) :]
                if not left:
                    return
            self._changed.wait_for(
                lambda: self._gone or not self._waiting or self._waiting_bytes + len(left) <= MOST_WAITING_BYTES
            )
            if self._gone:
                raise PeerGone
            self._waiting.append(left)
            self._waiting_bytes += len(left)
            if self._thread is None:
                self._thread = threading.Thread(target=self._empty, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until nothing waits: before this process ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._gone or not self._waiting)
            if self._gone:
                raise PeerGone

    def _sent_at_once(self, data: memoryview) -> int:
        try:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except ConnectionError as error:
            raise PeerGone from error

    def _empty(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting)
                data = self._waiting[0]
            try:
                self._socket.sendall(data)
            except OSError:  # or closed on our side; whoever sends or receives next is told
                with self._changed:
                    self._gone = True
                    self._changed.notify_all()
                return
            with self._changed:
                self._waiting.popleft()
                self._waiting_bytes -= len(data)
                self._changed.notify_all()


class LoopPeer(asyncio.Protocol):
    """An end on an event loop: never blocks. What the other end is slow to read waits in the transport."""

    def __init__(self, heard: Callable[[object], None]) -> None:
        """heard: gets each message."""
        self.writable = asyncio.Event()  # what was sent is not piling up, or never will be read
        self.writable.set()
        self.transport: asyncio.Transport | None = None  # None: it is not connected yet, or not any more
        self._heard = heard
        self._unpacker = Unpacker()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def pause_writing(self) -> None:
        """See asyncio.Protocol."""
        self.writable.clear()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self.writable.set()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        for message in self._unpacker.feed(data):
            self._heard(message)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.transport = None
        self.writable.set()

    def send(self, message: object) -> None:
        """Never blocks. Does nothing where the other end is gone."""
        if self.transport is not None:
            self.transport.write(pack(message))

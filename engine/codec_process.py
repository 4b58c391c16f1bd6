"""The codec in a process of its own: a CPU with two cores decodes a frame on one of them while the other computes the next frame.

Knows how to start that process, what crosses to it and how it ends. Does not know streams: the core (`engine.core`) decides what waits
for what. A thread would not do: a frame is a thousand small operations, and two threads that hand the interpreter lock to each other at
every one of them took as long as one after the other, with a fifth more CPU time. A message to the process and its answer take 0.1 ms,
and both ends sleep while they wait. It costs a second or two at the start, beside loading the model, and 0.3 GB of memory, most of it
torch's.

It loads the folder's codec itself, so that starting it costs no time beside loading the model. It ends when the other end of its socket
does, however that ended; if it dies first, the next call raises CodecGone, which ends the engine, which its server starts again.
"""

from __future__ import annotations

import contextlib
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from engine.api import Samples
from engine.codec_weights import load_codec
from engine.streaming import StreamingCodec
from engine.traced import can_trace
from engine.wire import BlockingPeer, PeerGone

# As for the engine's own process: import what the parent imports, never what lies in the current folder.
_BOOTSTRAP = "import sys; sys.path[:] = sys.argv[2:]; from engine.codec_process import main; main(int(sys.argv[1]))"
_LEAVE_S = 10.0  # from the end of its socket to its own


class CodecGone(Exception):
    """The codec's process has ended, and nobody told it to; the text says how."""


@dataclass(frozen=True, slots=True)
class CodecSpec:
    """First message: what to load."""

    folder: Path
    rows: int
    threads: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """First answer."""


@dataclass(frozen=True, slots=True)
class Reset:
    """Start a new stream in a row. Has no answer."""

    row: int


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Decode the next T frames of some rows. The answer is their samples, [B, T * frame_samples]."""

    codes: npt.NDArray[np.int16]  # [B, K, T]
    rows: tuple[int, ...]


class CodecProcess:
    """A `FrameDecoder` whose work is done elsewhere. `close` it; its process also ends with this one."""

    beside, several = True, 1

    def __init__(self, folder: Path, rows: int, threads: int) -> None:
        """Returns at once, while the process starts and loads: see `wait`. threads: of torch, there. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _BOOTSTRAP, str(theirs.fileno()), *sys.path],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                )
        except OSError:
            ours.close()
            raise
        self._socket = ours
        self._peer = BlockingPeer(ours)
        self._send(CodecSpec(folder, rows, threads))

    def wait(self) -> None:
        """Until it has loaded; before the first `start`. Raises CodecGone if it cannot, having said why on stderr. So do the others."""
        self._answer()

    def start(self, codes: npt.NDArray[np.int16], rows: Sequence[int]) -> None:
        self._send(Frames(codes, tuple(rows)))

    def is_done(self) -> bool:
        answered = select.poll()
        answered.register(self._socket, select.POLLIN)
        return bool(answered.poll(0))

    def finish(self) -> Samples:
        samples = self._answer()
        assert isinstance(samples, np.ndarray), "an answer to Frames is samples"
        return samples

    def reset(self, row: int) -> None:
        self._send(Reset(row))

    def _send(self, message: object) -> None:
        with self._watched():
            self._peer.send(message)

    def _answer(self) -> object:
        with self._watched():
            (answer,) = self._peer.receive(wait=True)
        return answer

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        try:
            yield
        except PeerGone as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_S)
            self.close()
            status = self._process.returncode
            how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}, see stderr"
            raise CodecGone(f"the process that decodes frames has ended ({how})") from error

    def close(self) -> None:
        """End the process, whatever it is doing. Safe to call twice."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


def main(fd: int) -> None:
    """Entry of the process. fd: its end of the socket pair."""
    # Who stops a service signals all its processes. This one goes when the engine has gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(PeerGone):
        serve(BlockingPeer(socket.socket(fileno=fd)))


def serve(peer: BlockingPeer) -> None:
    """Load what the first message names, then answer for ever. Raises PeerGone, and what loading raises."""
    spec, *messages = peer.receive(wait=True)
    assert isinstance(spec, CodecSpec), "the first message is a CodecSpec"
    torch.set_num_threads(spec.threads)
    codec = StreamingCodec(load_codec(spec.folder, "cpu"), spec.rows, solo=can_trace())
    peer.send(Loaded())
    while True:
        for message in messages:
            match message:
                case Reset(row):
                    codec.reset(row)
                case Frames(codes, rows):
                    index = torch.from_numpy(codes.astype(np.int64))
                    peer.send(codec.step(index, rows).numpy())
        messages = peer.receive(wait=True)

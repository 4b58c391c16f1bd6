"""A worker without a model, for tests of how the server minds its engine process: starts in a moment and misbehaves as told.

`python -c ... scripted_worker.main(fd)` in place of `engine.worker.main`. What it is to do stands in the file that the name in its
WorkerSpec names; one line is taken from it at each start, the last one for ever:

    speak           every stream gets as many frames as it has credit for, and ends with them once it is finished
    fail            says that it cannot load
    load            loads for ever
    exit            ends while loading
    die             ends at the first push
    deaf            is up, but reads nothing more

Unrealistic: text makes no difference, and frames are zeros.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import numpy as np

from engine import commands as c
from engine.api import Frame, ModelInfo
from engine.wire import BlockingPeer, PeerGone

INFO = ModelInfo("scripted", 22050, 1024, 8, 60.0)


def main(fd: int) -> None:
    """Entry of the process."""
    peer = BlockingPeer(socket.socket(fileno=fd))
    spec, *commands = peer.receive(wait=True)
    assert isinstance(spec, c.WorkerSpec)
    order = _next_order(Path(spec.name))
    if order == "load":
        signal.pause()
    if order == "exit":
        os._exit(3)
    if order == "fail":
        peer.send(c.Failed("out of luck"))
        return
    peer.send(c.Ready(INFO))
    if order == "deaf":
        signal.pause()
    with contextlib.suppress(PeerGone):
        _serve(peer, commands, dies=order == "die")


def _next_order(script: Path) -> str:
    first, *rest = script.read_text().split()
    script.write_text("\n".join(rest or [first]))
    return first


def _serve(peer: BlockingPeer, commands: list[object], dies: bool) -> None:
    frames: dict[int, int] = {}
    finished: set[int] = set()
    while True:
        report = c.Report()
        for command in commands:
            match command:
                case c.Push() if dies:
                    os._exit(9)
                case c.Allow(stream, frame_index):
                    for index in range(frames.get(stream, 0), frame_index):
                        frame = Frame(0, index, np.zeros(8, np.int16), np.zeros(1024, np.float32))
                        report.events.append((stream, frame))
                    frames[stream] = frame_index
                    if stream in finished:
                        report.events.append((stream, c.Ended()))
                case c.Finish(stream):
                    finished.add(stream)
                case c.Decode(job, codes):
                    report.pieces.append((job, np.zeros(codes.shape[1] * 1024, np.float32)))
                    report.done[job] = None
        if report:
            peer.send(report)
        commands = peer.receive(wait=True)

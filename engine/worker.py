"""The engine process: builds a core and steps it until its server goes away.

Started by `engine.process` with its end of a socket pair. The first message says what to load. It never outlives its server: the end of
the socket is the end of the loop, and of whatever keeps the loop from noticing.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time

from engine import commands as c
from engine.codec_process import CodecGone
from engine.core import EngineCore
from engine.load import load_core
from engine.quantize import QuantizeError
from engine.wire import PeerGone, QueueingPeer

LEAVE_S = 5.0  # from the end of the server to ours. A step takes far less; loading a model, or a device that hangs, takes longer


def main(fd: int) -> None:
    """Entry of the process. fd: our end of the socket pair."""
    # Who stops a service signals all its processes. The server drains and then closes us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sock = socket.socket(fileno=fd)
    threading.Thread(target=leave_with_server, args=(sock,), daemon=True).start()
    peer = QueueingPeer(sock)
    try:
        serve(peer)
        peer.flush()
    except PeerGone:
        pass  # nobody is left to speak for
    except CodecGone:
        sys.exit(1)  # the server has been told, and a traceback of ours would say nothing more


def serve(peer: QueueingPeer) -> None:
    """Load what the first message asks for, then step. Returns only if that cannot be loaded; else raises PeerGone, or what it died of."""
    first, *commands = peer.receive(wait=True)
    assert isinstance(first, c.WorkerSpec), "the first message is a WorkerSpec"
    try:
        core = load_core(
            first.folder,
            first.name,
            first.device,
            first.dtype,
            first.limits,
            first.attribution,
            guarded=first.guarded,
            quantize=first.quantize,
        )
    except Exception as error:  # supervisor: whatever it is, the server tells a person
        peer.send(c.Failed(_named(error)))
        return
    gc.freeze()  # what was loaded stays; to look through it for garbage takes 0.2 s, which a listener might hear
    with contextlib.closing(core):
        try:
            peer.send(c.Ready(core.info))
            run(core, peer, commands)
        except PeerGone:
            raise
        except Exception as error:  # supervisor: who starts us again shall know why
            with contextlib.suppress(PeerGone):
                peer.send(c.Failed(_named(error)))
                peer.flush()
            raise


def _named(error: Exception) -> str:
    return str(error) if isinstance(error, CodecGone | QuantizeError) else f"{type(error).__name__}: {error}"


def run(core: EngineCore, peer: QueueingPeer, commands: list[object]) -> None:
    """Apply `commands`, then step for ever, with what arrives in between. Raises PeerGone."""
    while True:
        for command in commands:
            core.handle(command)  # type: ignore[arg-type]
        report = core.step()
        if report:
            peer.send(report)
        commands = peer.receive(wait=not core.has_work())


def leave_with_server(sock: socket.socket) -> None:
    """End this process some time after the other end of `sock` was closed, whatever it is doing. Runs in a thread of its own."""
    hung_up = select.poll()
    hung_up.register(sock, 0)  # POLLHUP is always reported; bytes that arrive must not wake us
    hung_up.poll()
    time.sleep(LEAVE_S)
    os._exit(1)

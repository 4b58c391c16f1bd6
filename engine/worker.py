"""The engine process: `python -m engine.worker FD` builds a core and steps it until its server goes away.

Started by `engine.process`; FD is its end of a socket pair. The first message says what to load. It never outlives its server: the end
of the socket is the end of the loop.
"""

from __future__ import annotations

import signal
import socket
import sys

from engine import commands as c
from engine.core import EngineCore
from engine.load import load_core
from engine.wire import BlockingPeer


def main() -> None:
    """Entry of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server drains and then closes us
    peer = BlockingPeer(socket.socket(fileno=int(sys.argv[1])))
    first = peer.receive(wait=True)
    if first is None:
        return
    spec = first[0]
    assert isinstance(spec, c.WorkerSpec), "the first message is a WorkerSpec"
    try:
        core = load_core(
            spec.folder, spec.name, spec.device, spec.dtype, spec.limits, spec.attribution, guarded=spec.guarded
        )
    except Exception as error:  # supervisor: whatever it is, the server tells a person
        peer.send(c.LoadFailed(f"{type(error).__name__}: {error}"))
        return
    peer.send(c.Ready(core.info))
    for command in first[1:]:
        core.handle(command)  # type: ignore[arg-type]
    run(core, peer)


def run(core: EngineCore, peer: BlockingPeer) -> None:
    """Step until the server is gone."""
    while True:
        commands = peer.receive(wait=not core.has_work())
        if commands is None:
            return
        for command in commands:
            core.handle(command)  # type: ignore[arg-type]
        report = core.step()
        if report:
            peer.send(report)


if __name__ == "__main__":
    main()

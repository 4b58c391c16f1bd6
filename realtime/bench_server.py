"""The server that `parley bench` starts for itself: a process like any other, with a free port and room for the load.

Knows its command line, and that it ends with the bench. Does not know loads.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from engine.api import EngineLimits
from realtime.bench import live_url
from realtime.failure import CommandFailed

STOP_S: Final = 10.0  # to end once nobody talks to it


def serve_command(given: Mapping[str, object], streams: int) -> list[str]:
    """`parley serve` on a free port, with what was given and room for every stream."""
    options = {"max_streams": max(streams, EngineLimits().max_streams), **given}
    model = [str(options.pop("model"))] if "model" in options else []
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    # -P and this path instead of -m: the folder that the command is typed in may hold an `engine` or `protocol` of its own.
    root = str(Path(__file__).parent.parent)
    code = f"import sys; sys.path.insert(0, {root!r}); from realtime.cli import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code, "serve", *model]
    return [*command, "--port", "0", "--log-level", "warning", *words]


@contextmanager
def server_of_its_own(command: Sequence[str], listening: str, err: TextIO) -> Iterator[str]:
    """Run a server until the block ends; its WebSocket address, once it has printed a line with `listening` and its web address.

    Raises CommandFailed.
    """
    print("starting a server", file=err, flush=True)
    # A bench that is told to end must not leave its server behind.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    # In a session of its own: Ctrl-C is for the bench, which then ends the server; two signals would end it without a word to its clients.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None, "a pipe was asked for"
        try:
            for line in process.stdout:
                _, found, url = line.partition(listening)
                if found:
                    yield live_url(url.strip())
                    return
            raise CommandFailed(f"the server did not start; it ended with exit code {process.wait()}")
        finally:
            signal.signal(signal.SIGTERM, before)
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()

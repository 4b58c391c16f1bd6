"""What an operator sees of a command that works: the server's log, and how far a download is. On stderr.

Knows lines. Does not know what is logged or downloaded.
"""

from __future__ import annotations

import logging
import sys
from typing import Final, Protocol


class Progress(Protocol):
    """Of a download; as text it is a line for people."""

    @property
    def done_bytes(self) -> int: ...

    @property
    def total_bytes(self) -> int: ...


def log_to_stderr(level: str) -> None:
    """From now on."""
    handler = logging.StreamHandler()
    handler.setFormatter(LogLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler])


class LogLine(logging.Formatter):
    """The message, and behind it what was logged with it as name=value."""

    _KNOWN: Final = frozenset((*vars(logging.makeLogRecord({})), "message", "asctime"))

    def format(self, record: logging.LogRecord) -> str:
        extra = " ".join(f"{name}={value}" for name, value in vars(record).items() if name not in self._KNOWN)
        return f"{super().format(record)} {extra}".rstrip()


class DownloadLine:
    """Progress on stderr: one line that changes, or, where nobody watches, one for each tenth."""

    def __init__(self) -> None:
        self._tenth = -1
        self._open = False

    def __call__(self, progress: Progress) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{progress}", end="", file=sys.stderr, flush=True)
            self._open = True
            return
        tenth = 10 * progress.done_bytes // max(progress.total_bytes, 1)
        if tenth != self._tenth:
            self._tenth = tenth
            print(progress, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._open:
            print(file=sys.stderr)

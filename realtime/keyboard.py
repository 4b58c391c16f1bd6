"""What a person types: whole lines, and, while somebody else speaks, the first key at once.

Knows terminals and pipes. Does not know what the lines mean. A terminal gives lines, edited as its user is used to, until a key is to be
noticed at once; what was typed until then is the beginning of the next line. Source: POSIX.1-2017, General Terminal Interface.
"""

from __future__ import annotations

import codecs
import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import anyio

from realtime.typed_text import READ_BYTES, until_readable

_END: Final = "\x04"  # Ctrl-D, which a terminal that hands out single keys does not explain
_LOCAL_FLAGS: Final = 3  # of what tcgetattr returns


class Keyboard:
    """One file descriptor that somebody types into. For one task at a time."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.is_terminal: Final = os.isatty(fd)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._typed = ""  # and not yet given out
        self._ended = False

    async def line(self) -> str | None:
        """The next line, without its end and without control characters; None: there is none any more."""
        while "\n" not in self._typed and not self._ended:
            await self._read()
        if not self._typed:
            return None
        line, _, self._typed = self._typed.partition("\n")
        return "".join(char for char in line if char.isprintable())

    async def key(self) -> None:
        """Return when something was typed, a line or not. On anything but a terminal: never, for its lines can wait."""
        if not self.is_terminal:
            await anyio.sleep_forever()
        with self._keys_at_once():
            while not self._typed and not self._ended:
                await self._read()

    async def _read(self) -> None:
        await until_readable(self._fd)
        data = os.read(self._fd, READ_BYTES)
        text, end, _ = self._decoder.decode(data, final=not data).partition(_END)
        self._ended = not data or bool(end)
        self._typed += text

    @contextmanager
    def _keys_at_once(self) -> Iterator[None]:
        before = termios.tcgetattr(self._fd)
        changed = termios.tcgetattr(self._fd)
        changed[_LOCAL_FLAGS] &= ~termios.ICANON
        termios.tcsetattr(self._fd, termios.TCSADRAIN, changed)
        try:
            yield
        finally:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, before)

"""Text from a pipe, a terminal or a file, as it comes: what is there is handed on at once, also half a line.

Knows UTF-8 that is cut in the middle of a character. Does not know who reads it. Needs no thread, so waiting for text can be cancelled.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import AsyncIterator
from typing import Final

import anyio
import anyio.lowlevel

READ_BYTES: Final = 65_536


async def read_deltas(fd: int) -> AsyncIterator[str]:
    """The deltas of a file descriptor until its end; what is no UTF-8 becomes U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        await until_readable(fd)
        data = os.read(fd, READ_BYTES)
        if text := decoder.decode(data, final=not data):
            yield text
        if not data:
            return


async def until_readable(fd: int) -> None:
    """Wait until reading would not. Files never make anybody wait."""
    try:
        await anyio.wait_readable(fd)
    except PermissionError:  # epoll's word for a file or a device that never makes anybody wait
        await anyio.lowlevel.checkpoint()

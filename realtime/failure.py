"""How a command of `parley` says that it cannot go on: one line for the person who typed it."""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
MISUSED: Final = 2  # the command line asks for something that cannot be
INTERRUPTED: Final = 130  # by Ctrl-C; the shells' number for it


class CommandFailed(Exception):
    """Ends the command with this one line on stderr."""

    def __init__(self, cause: object, exit_code: int = FAILED) -> None:
        """`cause`: a sentence, or the error whose text is one."""
        text = " ".join(str(cause).split())
        super().__init__(text or type(cause).__name__)
        self.exit_code = exit_code


def leaf(error: BaseException) -> BaseException:
    """What a task group wrapped: the first of what happened at the same time."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error

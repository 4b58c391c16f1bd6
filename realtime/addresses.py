"""Bare web addresses in text: the host is read, scheme and path are not.

Knows where an address begins and ends. Does not know links of Markdown or what else stands in the text (`realtime.markdown`).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from realtime.characters import Script, facts
from realtime.said import ChangeKind, SaidText

_SCHEMES: Final = ("http://", "https://", "www.")
_WWW: Final = "www."
_LONGEST: Final = len("https://www.")
_ENDS: Final = '<>"*`|“”„»«'
_TAIL = re.compile(r"[.,;:!?'’)\]]{1,32}")  # belongs to the sentence where a space or the end follows


class _At(Enum):
    """Where inside an address the reading is."""

    NOWHERE = "nowhere"
    HOST = "host"
    PATH = "path"


class Addresses:
    """Reads them into a `SaidText`.

    Every method returns how many characters it read: None where what follows decides, 0 for none that are its own.
    """

    def __init__(self, text: SaidText) -> None:
        self._text = text
        self._at = _At.NOWHERE
        self._parens = 0  # open in the path
        self._in_angles = False

    @property
    def open(self) -> bool:
        """Whether the reading is inside an address."""
        return self._at is not _At.NOWHERE

    def begin(self, b: str, at: int, final: bool) -> int | None:
        """Perhaps `https://`, or whatever else begins with an h or a w."""
        ahead = b[at : at + _LONGEST].lower()
        at_end = not final and at + len(ahead) == len(b)
        if self._text.before.isalnum():
            return 0
        scheme = next((scheme for scheme in _SCHEMES if ahead.startswith(scheme)), None)
        if scheme is None:
            return None if at_end and any(scheme.startswith(ahead) for scheme in _SCHEMES) else 0
        behind = ahead[len(scheme) :]
        if scheme != _WWW and behind.startswith(_WWW):
            scheme += _WWW
        elif scheme != _WWW and at_end and _WWW.startswith(behind):
            return None
        self._at, self._parens = _At.HOST, 0
        return self._text.drop(b[at : at + len(scheme)], ChangeKind.LINK)

    def begin_angle(self, b: str, at: int, final: bool) -> int | None:
        """Perhaps `<https://x.org>`."""
        ahead = b[at + 1 : at + 1 + _LONGEST].lower()
        if any(ahead.startswith(scheme) for scheme in _SCHEMES):
            self._in_angles = True
            return self._text.drop("<", ChangeKind.LINK)
        at_end = not final and at + 1 + len(ahead) == len(b)
        return None if at_end and any(scheme.startswith(ahead) for scheme in _SCHEMES) else 0

    def read(self, b: str, at: int, final: bool) -> int | None:
        """The next character of the one that is open; 0: it has ended."""
        char = b[at]
        if char.isspace() or char in _ENDS or facts(char).script is not Script.SPACED:
            self._at = _At.NOWHERE
            closes, self._in_angles = self._in_angles and char == ">", False
            return self._text.drop(char, ChangeKind.LINK) if closes else 0
        tail = _TAIL.match(b, at)
        ended = tail is not None and self._ends(b, tail, final)
        if ended is None:
            return None
        if ended:
            self._at = _At.NOWHERE
            return 0
        if self._at is _At.HOST and (char.isalnum() or char in "-._"):
            return self._text.plain(char)
        self._at = _At.PATH
        self._parens += (char == "(") - (char == ")")
        return self._text.drop(char, ChangeKind.LINK)

    def _ends(self, b: str, tail: re.Match[str], final: bool) -> bool | None:
        """Whether the marks found end the address; None: what follows decides."""
        if tail[0][0] in ")]":
            return tail[0][0] == "]" or not self._parens
        if tail.end() == len(b):
            return True if final else None
        after = b[tail.end()]
        return after.isspace() or after in _ENDS

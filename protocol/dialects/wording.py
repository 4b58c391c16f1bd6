"""Text that comes in pieces from frameworks that cut it at will: where a space was lost, and where there are too many.

Knows white space and brackets. Does not know messages or turns.
"""

from __future__ import annotations

import re
from typing import Final

_SPACES: Final = re.compile(r"[ \t]{2,}")
_SENTENCE_ENDS: Final = frozenset(".!?…:;。！？")
_OPENERS: Final = frozenset("\"'“‘«([¿¡<")
_CLOSERS: Final = "\"'”’»)]"
MAX_TAG_CHARS: Final = 64  # a bracket that is open for longer is just a bracket


class Wording:
    """The text of one turn, in the order in which it came."""

    def __init__(self) -> None:
        self._last = ""  # the end of what was let through, as far as it matters
        self._border = False  # a flush stands between that and what comes
        self._inside = 0  # characters since a [tag] or a <|token|> began; 0: outside of any

    def message(self, text: str) -> str:
        """The text of one message, with a space before it where it needs one, and without double ones.

        Words that come in pieces ("hel", "lo") must not be parted, sentences ("One.", "Two.") must be.
        """
        if not text:
            return ""
        if self._last and not self._last[-1].isspace() and not text[0].isspace() and self._needs_space(text):
            text = " " + text
        text = _SPACES.sub(" ", text)
        if text[0] == " " and (not self._last or self._last[-1] == " "):
            text = text[1:]
        if text:
            self._note(text)
        return text

    def flush(self) -> None:
        """What comes next is no part of the word before."""
        self._border = True

    @property
    def in_bracket(self) -> bool:
        """Whether a tag or token was begun and not ended: a flush here would part it."""
        return 0 < self._inside <= MAX_TAG_CHARS

    def _needs_space(self, text: str) -> bool:
        if self.in_bracket:
            return False
        if self._border:
            return True
        bare = self._last.rstrip(_CLOSERS)
        if not bare or bare[-1] not in _SENTENCE_ENDS:
            return False
        if text[0].isupper() or text[0] in _OPENERS:
            return True
        # No word goes on behind the quotation marks of a sentence.
        return len(bare) < len(self._last) and bare[-1] in ".!?…" and text[0].isalnum()

    def _note(self, text: str) -> None:
        self._last = (self._last + text)[-8:]
        self._border = False
        for char in text:
            if char in "[<":
                self._inside = 1
            elif char in "]>":
                self._inside = 0
            elif self._inside:
                self._inside += 1

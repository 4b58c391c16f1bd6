"""Emoji that were cut in half.

JSON escapes spell a character beyond U+FFFF as two halves (`\\ud83d\\ude00`), and a text stream may be cut between them. Python keeps
such a half as a string that no UTF-8 encoder takes. Knows how halves are joined across pieces; does not know messages or turns.
"""

from __future__ import annotations

import re
from typing import Final

_HALF: Final = re.compile("[\ud800-\udfff]")
_HIGH: Final = re.compile("[\ud800-\udbff]\\Z")


def has_half(text: str) -> bool:
    """Whether `text` holds a surrogate code point, which UTF-8 cannot."""
    return _HALF.search(text) is not None


def join(held: str, piece: str) -> tuple[str, str]:
    """The next part of a text that arrives in pieces, and what to hand in as `held` with the piece after it.

    A high half at the end is held back for its low half; a half without its partner becomes U+FFFD. The first part never holds a half;
    for every cutting of a text into pieces the parts joined, and `held` at the end, are the same.
    """
    text = held + piece
    if not has_half(text):
        return text, ""
    body, rest = (text[:-1], text[-1]) if _HIGH.search(text) else (text, "")
    # UTF-16 is where a pair of halves is one character; what it cannot pair, it replaces.
    return body.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), rest

r"""How Deepgram's clients write a pronunciation into a text: `\{"word": "dupilumab", "pronounce": "duːpˈɪljuːmæb"\}` for the word.

Knows that, in text that comes in pieces. No model here reads phonemes: the word is spoken as it is written.
"""

from __future__ import annotations

import json
import re
from typing import Final

MAX_CHARS: Final = 300  # what is open for longer is no pronunciation
_WHOLE: Final = re.compile(r"\\(\{[^{}]*)\\(\})")
_BEGUN: Final = re.compile(r"\\(?:\{[^{}]*)?\Z")


class Markup:
    """One text, in pieces as it comes."""

    def __init__(self) -> None:
        self._held = ""  # perhaps the beginning of a pronunciation

    def text(self, piece: str) -> str:
        """What can be spoken of it."""
        text = _WHOLE.sub(_word, self._held + piece)
        begun = _BEGUN.search(text)
        self._held = begun[0] if begun is not None and len(begun[0]) <= MAX_CHARS else ""
        return text[: len(text) - len(self._held)]

    def rest(self) -> str:
        """At the end: what was held was none."""
        held, self._held = self._held, ""
        return held


def _word(found: re.Match[str]) -> str:
    try:
        word = json.loads(found[1] + found[2])["word"]
    except (ValueError, KeyError):
        return found[0]
    return word if isinstance(word, str) else found[0]

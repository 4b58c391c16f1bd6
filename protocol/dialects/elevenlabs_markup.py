"""The markup that ElevenLabs reads in its text, as far as clients use it: a `<break>` is a pause, and other tags of its are not spoken.

Knows tags in text that comes in pieces. Does not know messages. What a `<phoneme>` says about its word is lost: no model here reads it.
"""

from __future__ import annotations

import re
from typing import Final

MAX_TAG_CHARS: Final = 160  # what is open for longer is no tag
_NAMES: Final = ("break", "phoneme", "speak")
_TAG: Final = re.compile(rf"<(/?)({'|'.join(_NAMES)})(\s[^<>]*|/)?>", re.IGNORECASE)
_BEGUN: Final = re.compile(r"</?([a-z]*)(\s[^<>]*|/)?\Z", re.IGNORECASE)
_TIME: Final = re.compile(r"""time\s*=\s*["']?\s*([0-9]*\.?[0-9]+)\s*(ms|s)\b""", re.IGNORECASE)
# Tags that the model knows, and below how many seconds; the mini is silent 0.3, 0.6 and 1.2 s longer for them. The space in front means
# nothing to it: by that they are told from a client's own tags.
_PAUSES: Final = ((0.45, "[ short pause]"), (0.9, "[ pause]"), (float("inf"), "[ long pause]"))
_UNTIMED: Final = "[ pause]"
MADE: Final = re.compile(r"\[ (?:short |long )?pause\]")
"""Pauses that the client did not write like this: it must not be told that such a word was spoken."""


class Markup:
    """One text, in pieces as it comes."""

    def __init__(self) -> None:
        self._held = ""  # perhaps the beginning of a tag

    def text(self, piece: str) -> str:
        """What can be spoken of it."""
        text = self._held + piece
        if "<" not in text:
            self._held = ""
            return text
        text = _TAG.sub(_spoken, text)
        begun = _BEGUN.search(text)
        self._held = begun[0] if begun is not None and _may_be_a_tag(begun) else ""
        return text[: len(text) - len(self._held)]

    def rest(self) -> str:
        """At the end: what was held was no tag."""
        held, self._held = self._held, ""
        return held


def _may_be_a_tag(begun: re.Match[str]) -> bool:
    name = begun[1].lower()
    known = name in _NAMES if begun[2] else any(each.startswith(name) for each in _NAMES)
    return known and len(begun[0]) <= MAX_TAG_CHARS


def _spoken(tag: re.Match[str]) -> str:
    if tag[2].lower() != "break" or tag[1]:
        return ""
    found = _TIME.search(tag[3] or "")
    if found is None:
        return _UNTIMED
    seconds = float(found[1]) / (1000 if found[2].lower() == "ms" else 1)
    return next(pause for most_s, pause in _PAUSES if seconds < most_s) if seconds > 0 else ""

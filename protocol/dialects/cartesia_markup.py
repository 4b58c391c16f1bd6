"""The markup that Cartesia reads in its text: a `<break>` is a pause, an `<emotion>` is a style, and other tags of its are not spoken.

Knows tags in text that comes in pieces. Does not know messages. What `<speed>`, `<volume>` and `<spell>` say of a part is lost.
"""

from __future__ import annotations

import re
from typing import Final

MAX_TAG_CHARS: Final = 160  # what is open for longer is no tag
_NAMES: Final = ("break", "emotion", "speed", "volume", "spell", "speak")
_TAG: Final = re.compile(rf"<(/?)({'|'.join(_NAMES)})(\s[^<>]*|/)?>", re.IGNORECASE)
_BEGUN: Final = re.compile(r"</?([a-z]*)(\s[^<>]*|/)?\Z", re.IGNORECASE)
_TIME: Final = re.compile(r"""time\s*=\s*["']?\s*([0-9]*\.?[0-9]+)\s*(ms|s)\b""", re.IGNORECASE)
_VALUE: Final = re.compile(r"""value\s*=\s*["']?\s*([a-z][a-z /-]{0,40}?)\s*(?:["'/]|\Z)""", re.IGNORECASE)
_PAUSES: Final = ((0.45, "[short pause]"), (0.9, "[pause]"), (float("inf"), "[long pause]"))  # below so many seconds


class Markup:
    """One text, in pieces as it comes."""

    def __init__(self) -> None:
        self._held = ""  # perhaps the beginning of a tag

    def text(self, piece: str) -> str:
        """What can be spoken of it."""
        text = _TAG.sub(_spoken, self._held + piece)
        begun = _BEGUN.search(text)
        self._held = begun[0] if begun is not None and _may_be_a_tag(begun) else ""
        return text[: len(text) - len(self._held)]

    def rest(self) -> str:
        """At the end: what was held was no tag."""
        held, self._held = self._held, ""
        return held


def style(emotion: str) -> str:
    """An emotion by Cartesia's name for it, as a tag."""
    return "[normal]" if emotion.lower() == "neutral" else f"[{emotion.lower()}]"


def _may_be_a_tag(begun: re.Match[str]) -> bool:
    name = begun[1].lower()
    known = name in _NAMES if begun[2] else any(each.startswith(name) for each in _NAMES)
    return known and len(begun[0]) <= MAX_TAG_CHARS


def _spoken(tag: re.Match[str]) -> str:
    kind, attributes = tag[2].lower(), tag[3] or ""
    if tag[1]:
        return ""
    if kind == "emotion" and (value := _VALUE.search(attributes)) is not None:
        return style(value[1])
    if kind != "break":
        return ""
    found = _TIME.search(attributes)
    if found is None:
        return "[pause]"
    seconds = float(found[1]) / (1000 if found[2].lower() == "ms" else 1)
    return next(pause for below_s, pause in _PAUSES if seconds < below_s) if seconds > 0 else ""

"""The times of a word's characters, from the time of the word: an even share for each, as nothing in the model tells more.

Knows which code points are one character to a reader. Does not know where the word's times come from.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from realtime.alignment import Word

_JOINER: Final = "\u200d"  # between the parts of one emoji


def letters(word: Word) -> Iterator[Word]:
    """The characters of a word in order, each with what modifies it: together they are its text, range and time."""
    pieces = _characters(word.text)
    length_ms, at = word.end_ms - word.start_ms, 0
    for index, piece in enumerate(pieces):
        start_ms = word.start_ms + length_ms * index // len(pieces)
        end_ms = word.start_ms + length_ms * (index + 1) // len(pieces)
        start = word.char_start + at
        at += len(piece)
        yield replace(word, text=piece, start_ms=start_ms, end_ms=end_ms, char_start=start, char_end=start + len(piece))


def _characters(text: str) -> list[str]:
    found: list[str] = []
    for char in text:
        modifies = unicodedata.category(char)[0] == "M" or unicodedata.category(char) in ("Cf", "Sk")
        if found and (modifies or found[-1].endswith(_JOINER)):
            found[-1] += char
        else:
            found.append(char)
    return found

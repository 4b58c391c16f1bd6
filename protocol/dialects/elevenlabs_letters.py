"""Which character is heard when, as ElevenLabs' clients read it: every character of the text with a start and a duration.

Knows characters and times. Does not know messages or turns. Spaces are characters: a client believes that a word is complete when the
space behind it came. So the last word before a pause gets one, even if the client sent none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from protocol.dialects.elevenlabs_markup import MADE
from protocol.events import Alignment


@dataclass(frozen=True, slots=True)
class Letter:
    """One character. Times from the start of the first turn."""

    char: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Spelling:
    """What is told with one message."""

    written: tuple[Letter, ...]  # as the client sent it
    spoken: tuple[Letter, ...]  # without tags and speaker tokens
    base_ms: int  # where the last one ended


class Letters:
    """Of turns that follow each other without a gap; `text` and `event` speak of the newest one."""

    def __init__(self, hidden: Sequence[str] = ()) -> None:
        """hidden: what is in the text between words and not the client's."""
        self._hidden = hidden
        self._raw = ""  # of the turn
        self._at = 0  # code points of it that were told
        self._base_ms = 0  # where the turn begins
        self._end_ms = 0  # of what was told
        self._told_ms = 0  # of what was taken
        self._spaced = True  # what was told ends with white space
        self._owed = False  # a space was told that had not come
        self._written: list[Letter] = []
        self._spoken: list[Letter] = []

    def text(self, text: str) -> None:
        """More of the turn's text, as it was handed on."""
        self._raw += text

    def event(self, alignment: Alignment) -> None:
        """Words that were spoken. Times that are known better now come too late, and are let pass."""
        for item in alignment.items:
            if item.char_start >= self._at:
                start_ms = max(self._end_ms, self._base_ms + item.start_ms)
                self._gap(self._raw[self._at : item.char_start], start_ms)
                self._word(item.text, start_ms, max(start_ms, self._base_ms + item.end_ms))
                self._at = item.char_end
        if alignment.final and not self._spaced:
            self._space()

    def turn_done(self, audio_ms: int, *, complete: bool) -> None:
        """The next turn's times go on from here. complete: all of its text counts as spoken."""
        if complete:
            self._gap(self._raw[self._at :], self._end_ms)
            if not self._spaced:
                self._space()
        self._raw, self._at, self._owed = "", 0, False
        self._base_ms += audio_ms
        self._end_ms = max(self._end_ms, self._base_ms) if complete else self._base_ms

    def take(self) -> Spelling | None:
        """What was not taken before."""
        if not self._written:
            return None
        taken = Spelling(tuple(self._written), tuple(self._spoken), self._told_ms)
        self._told_ms = self._written[-1].end_ms
        self._written, self._spoken = [], []
        return taken

    def _word(self, text: str, start_ms: int, end_ms: int) -> None:
        letters = _spread(text, start_ms, end_ms)
        self._written += letters
        self._spoken += letters
        self._end_ms, self._spaced = end_ms, False

    def _gap(self, text: str, end_ms: int) -> None:
        """What stands between words."""
        text = MADE.sub("", text)
        for hidden in self._hidden:
            text = text.replace(hidden, "")
        if self._owed and text[:1].isspace():
            text = text[1:]
        self._owed = False
        if not text:
            return
        self._written += _spread(text, self._end_ms, end_ms)
        if not self._spaced and any(char.isspace() for char in text):
            self._spoken.append(Letter(" ", self._end_ms, end_ms))
        self._end_ms, self._spaced = end_ms, text[-1].isspace()

    def _space(self) -> None:
        """After the last word for now: the one that comes behind it, or one that is owed. None inside of text without spaces."""
        follows = self._raw[self._at : self._at + 1]
        if follows and not follows.isspace():
            return
        self._at += len(follows)
        self._owed, self._spaced = not follows, True
        for told in (self._written, self._spoken):
            told.append(Letter(" ", self._end_ms, self._end_ms))


def _spread(text: str, start_ms: int, end_ms: int) -> list[Letter]:
    """The characters of a word share its time. White space is a space: at nothing else a client ends a word."""
    times = [start_ms + (end_ms - start_ms) * at // len(text) for at in range(len(text) + 1)]
    return [Letter(" " if char.isspace() else char, times[at], times[at + 1]) for at, char in enumerate(text)]

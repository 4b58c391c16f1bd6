"""A turn's text with what is said for each of its characters, written down while it is read.

Knows positions, marks that a line lacks, and what is to be told about changes. Does not know why something is said as it is: the lexer
that reads the text decides that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from realtime.characters import Mark, Script, facts
from realtime.tags import SpeakerToken, Tag, Text, Token


class ChangeKind(StrEnum):
    """What was not read as it stands; the value is how it is told."""

    MARKS = "Markdown marks are not read"
    LIST = "bullets are not read"
    CODE = "a code block is left out"
    LINK = "of an address only its text or its host is read"
    TABLE = "a table is read as its cells"
    EMOJI = "emoji are not read"
    HTML = "HTML tags are not read"
    SYMBOL = "symbols are read as pauses"


@dataclass(frozen=True, slots=True)
class Change:
    """A stretch of the input of which something is not read as it stands."""

    kind: ChangeKind
    start: int  # code points of the turn's raw input
    end: int

    def __str__(self) -> str:
        return f"characters {self.start} to {self.end}: {self.kind}"


class SaidText:
    """Collects tokens. `drop` is for what is not said as it stands; runs of text end where tokens are taken."""

    def __init__(self) -> None:
        self.start = 0  # code points written
        self.before = ""  # the last of them
        self.unmarked = False  # a letter was said since the last mark: a line that ends here lacks one
        self._last_word = ""  # the last letter or digit said
        self._raw: list[str] = []  # of the text run being made
        self._said: list[str] = []
        self._tokens: list[Token] = []
        self._changes: list[Change] = []

    def plain(self, text: str) -> int:
        """Text that is said as it stands; returns its length, as the others do."""
        for char in text:
            self.put(char, char)
        return len(text)

    def drop(self, text: str, kind: ChangeKind, said: str = "") -> int:
        """Text of which the first character says `said` and the others nothing."""
        start = self.start
        for index, char in enumerate(text):
            self.put(char, said if index == 0 else "")
        last = self._changes[-1] if self._changes else None
        if last is not None and last.kind is kind and last.end == start:
            self._changes[-1] = Change(kind, last.start, self.start)
        else:
            self._changes.append(Change(kind, start, self.start))
        return len(text)

    def put(self, char: str, said: str) -> None:
        """One character, and what is said for it."""
        self._raw.append(char)
        self._said.append(said)
        self.start += 1
        self.before = char
        for sound in said:
            found = facts(sound)
            if found.speakable:
                self.unmarked, self._last_word = True, sound
            elif found.spaced is not Mark.NONE:
                self.unmarked = False

    def token(self, token: Tag | SpeakerToken) -> int:
        """A tag or a speaker token."""
        self._end_run()
        self._tokens.append(token)
        self.start += len(token.raw)
        self.before = token.raw[-1]
        return len(token.raw)

    def missing_mark(self) -> str:
        """The mark that a line lacks which ends here."""
        if not self.unmarked:
            return ""
        return ". " if facts(self._last_word).script is Script.SPACED else "。"

    def take(self) -> list[Token]:
        """The tokens since the last call."""
        self._end_run()
        tokens, self._tokens = self._tokens, []
        return tokens

    def take_changes(self, end: int) -> tuple[Change, ...]:
        """What was changed up to a position, each once."""
        taken = tuple(replace(c, end=min(c.end, end)) for c in self._changes if c.start < end)
        self._changes = [replace(c, start=max(c.start, end)) for c in self._changes if c.end > end]
        return taken

    def _end_run(self) -> None:
        if self._raw:
            raw = "".join(self._raw)
            said = None if self._raw == self._said else tuple(self._said)
            self._tokens.append(Text(self.start - len(raw), raw, said))
            self._raw, self._said = [], []

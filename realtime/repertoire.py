"""What of a text a checkpoint can read aloud, and how the rest is left out.

Knows the scripts that a checkpoint declares. Does not know segments, borders or time. A checkpoint that declares none gets every text as it
stands; another one gets words in its scripts, digits, punctuation and symbols, and never a letter that it would babble.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Final

from realtime.characters import Mark, facts
from realtime.scripts import SCRIPTS, script_of

_TIES: Final = frozenset("'’ʼ-‐‑·/_")  # between the halves of one word: what is left of `Москва-City` is `City`
_DASHES: Final = "-‐‑‒–—―"
_PAIRS: Final = dict(zip("([{<«»„“‘‚「『\"'", ")]}>»«“”’‘」』\"'", strict=True))
_INVISIBLE: Final = frozenset("\u200c\u200d\u200e\u200f")  # join, part or turn the letters around them
_CLITIC: Final = re.compile(r"['’]s\b")  # nothing without its word
# Marks that other scripts have of their own, where they stand between words that are read.
_MARKS: Final = dict(zip("。｡．।॥۔։！？؟，、､،；؛：", "......" + ".!??,,,,;;:", strict=True))


@dataclass(frozen=True, slots=True)
class Unread:
    """A stretch of text that is left out."""

    script: str  # as Unicode names it
    start: int  # code points
    end: int

    def __str__(self) -> str:
        where = f"characters {self.start} to {self.end} are {self.script} script"
        return f"{where}, which this model cannot speak: such text is left out"


class Repertoire:
    """The scripts of one checkpoint. Immutable."""

    def __init__(self, scripts: Iterable[str] | None = None) -> None:
        """`scripts`: as Unicode names them; None: all. Raises ValueError for a name that Unicode does not have, and for no name at all."""
        self._scripts = None if scripts is None else frozenset(scripts)
        if self._scripts is not None and (not self._scripts or self._scripts - SCRIPTS):
            raise ValueError(f"scripts {sorted(self._scripts)} are not all names of Unicode's, such as Latin")

    @staticmethod
    @lru_cache(maxsize=16)
    def of(scripts: tuple[str, ...] | None) -> Repertoire:
        """The one for these scripts."""
        return Repertoire(scripts)

    def reads(self, char: str) -> bool:
        """Whether a character by itself is read; a mark that all scripts share goes with its letter, which is not looked at here."""
        script = None if self._scripts is None else script_of(char)
        return script is None or self._scripts is None or script in self._scripts

    def reads_all(self, text: str) -> bool:
        """Whether nothing of it is left out."""
        return self._scripts is None or all(map(self.reads, text))

    def sounds(self, text: str) -> bool:
        """Whether something of it is heard: a letter or a digit that is read."""
        return any(facts(char).speakable for char in self.kept(text))

    def kept(self, text: str) -> str:
        """The characters that are read, as they stand."""
        if self.reads_all(text):
            return text
        return "".join(char for char, read in zip(text, self._flags(text), strict=True) if read)

    def unread(self, text: str, start: int = 0) -> list[Unread]:
        """What is left out, in order: words with what stands between them, cut where the script changes. `start`: position of `text`."""
        found: list[Unread] = []
        if self.reads_all(text):
            return found
        heard = True  # something is, since the last stretch
        for at, (char, read) in enumerate(zip(text, self._flags(text), strict=True), start):
            if read:
                heard = heard or facts(char).speakable
                continue
            script = script_of(char) or found[-1].script  # a shared mark, which only follows a letter
            if not heard:
                found[-1] = replace(found[-1], end=at + 1 if script == found[-1].script else at)
            if heard or script != found[-1].script:
                found.append(Unread(script, at, at + 1))
            heard = False
        return found

    def spoken(self, text: str) -> str:
        """A run of text as the engine gets it: what is left out has closed up, and what looks like a letter or a mark is one."""
        if self._scripts is None:
            return text
        stretches = self.unread(text)
        whole = text[: stretches[0].start] if stretches else text
        for index, stretch in enumerate(stretches):
            after = stretches[index + 1].start if index + 1 < len(stretches) else len(text)
            whole = _closed_up(whole, text[stretch.start : stretch.end], text[stretch.end : after])
        plain = "".join(self._plain(char) for char in _spaced(whole))
        return unicodedata.normalize("NFC", plain)

    def _flags(self, text: str) -> list[bool]:
        """For each character whether it is read."""
        flags: list[bool] = []
        for char in text:
            follows = char in _INVISIBLE or unicodedata.category(char)[0] == "M"
            unread_before = bool(flags) and not flags[-1]
            flags.append(self.reads(char) and not (follows and unread_before))
        return flags

    def _plain(self, char: str) -> str:
        folded = _folded(char)
        return folded if self.reads_all(folded) else char


EVERYTHING: Final = Repertoire()


@lru_cache(maxsize=4096)
def _folded(char: str) -> str:
    """The usual form of a character that only looks different: full-width and mathematical letters, ligatures, digits, marks."""
    if char.isascii():
        return char
    if char in _MARKS:
        return _MARKS[char]
    category = unicodedata.category(char)
    if category == "Nd":
        return str(unicodedata.decimal(char))
    form = unicodedata.decomposition(char).split(" ")[0]
    if (category[0] == "L" and form in ("<wide>", "<font>", "<compat>")) or category == "Nl":
        return unicodedata.normalize("NFKC", char)
    return " " if category == "Zs" else char


def _spaced(text: str) -> str:
    """Marks that no white space needs to follow get some before a letter: their forms in Latin script need it."""
    pieces = []
    for char, after in pairwise(text + " "):
        word_follows = facts(after).speakable and not facts(after).digit
        pieces.append(char + " " if char in _MARKS and word_follows else char)
    return "".join(pieces)


def _soft(char: str) -> bool:
    """Whether a character is there only for the words around it."""
    return char.isspace() or char in _TIES or char in _DASHES or facts(char).spaced is not Mark.NONE


def _closed_up(before: str, removed: str, after: str) -> str:
    """`before` and `after` without what stood between them, with one mark and one space where there were two."""
    if clitic := _CLITIC.match(after):
        after = after[clitic.end() :]
    head_end = next((i for i, char in enumerate(after) if char.isspace() or facts(char).speakable), len(after))
    head, rest = after[:head_end], after[head_end:]
    while before and (closer := _PAIRS.get(before[-1])) and closer in removed + head:
        before, head = before[:-1], head.replace(closer, "", 1)
    core = before.rstrip("".join(filter(_soft, before)))
    marks, head = _stronger(_marks(before[len(core) :]), _marks(head)), "".join(c for c in head if not _soft(c))
    if not core or core[-1] in "([{":
        rest = rest.lstrip("".join(filter(_soft, rest)))
        gap = " " if not core and (before + after)[:1].isspace() else ""
        return core + gap + rest
    if marks:
        rest = rest.lstrip(_DASHES + " ")
    if rest and not rest[0].isspace():
        rest = " " + rest
    spaced = rest or (" " if before[-1:].isspace() else "")
    return core + head + marks + spaced


def _marks(text: str) -> str:
    """Its marks, without dashes: those stand between two words and not behind one."""
    return "".join(char for char in text if facts(char).spaced is not Mark.NONE and char not in _DASHES)


def _stronger(first: str, second: str) -> str:
    """Of two runs of marks the one that ends more; the first if they end the same."""
    return max(first, second, key=lambda marks: max((facts(char).spaced for char in marks), default=Mark.NONE))

"""In which words a turn's text is spoken: cleaned of marks, by the client's lexicon, and with its numbers in words.

Knows the settings of a turn and in which order they act. Does not know segments' borders, deltas or time: it gets the tokens of one whole
segment, so nothing that it does looks across a border.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from protocol.config import SessionConfig
from realtime.expansion import TONGUES, applied, edits
from realtime.number_shapes import Edit
from realtime.tags import Text, Token


class Lexicon:
    """Words and how they are to be spoken. A key in lower case also stands for the word in other cases. Immutable."""

    def __init__(self, entries: Mapping[str, str]) -> None:
        self._entries = dict(entries)
        keys = sorted(map(re.escape, self._entries), key=len, reverse=True)
        # Longest first: of `C++` and `C` the text means the one that fits. Neither end may be inside a word.
        self._pattern = re.compile(rf"(?<![^\W_])(?:{'|'.join(keys)})(?![^\W_])", re.IGNORECASE) if keys else None

    @staticmethod
    @lru_cache(maxsize=64)
    def of(entries: tuple[tuple[str, str], ...]) -> Lexicon:
        """The one with these entries: turn after turn has the same."""
        return Lexicon(dict(entries))

    def edits(self, text: str) -> list[Edit]:
        """What is to be spoken otherwise."""
        found = [] if self._pattern is None else self._pattern.finditer(text)
        spoken = ((match, self._spoken(match[0])) for match in found)
        return [Edit(*match.span(), words) for match, words in spoken if words is not None]

    def _spoken(self, word: str) -> str | None:
        exact = self._entries.get(word)
        return exact if exact is not None else self._entries.get(word.lower())


NO_LEXICON: Final = Lexicon({})


@dataclass(frozen=True, slots=True)
class Wording:
    """What is done to the text of a turn. Immutable."""

    clean: bool = False  # marks, links, code, tables and emoji are not read as symbols
    in_words: bool = False  # numbers and symbols are written out
    language: str | None = None  # a key of TONGUES; None: guessed from the turn's text
    lexicon: Lexicon = field(default=NO_LEXICON)

    @staticmethod
    def of(config: SessionConfig, numbers_in_words: bool) -> Wording:
        """What a turn's settings ask for. `numbers_in_words`: whether its model must get them so."""
        return Wording(
            clean=config.normalize,
            in_words=config.normalize and numbers_in_words,
            language=config.language,
            lexicon=Lexicon.of(tuple(config.lexicon.items())) if config.lexicon else NO_LEXICON,
        )

    @property
    def rewords(self) -> bool:
        """Whether `reworded` may change anything."""
        return self.in_words or self.lexicon is not NO_LEXICON

    def reworded(self, tokens: list[Token], language: str) -> list[Token]:
        """The tokens of a segment with other words for some of their characters. `language`: where the settings do not say it."""
        return [self._text(token, self.language or language) if isinstance(token, Text) else token for token in tokens]

    def _text(self, token: Text, language: str) -> Text:
        spoken = token.spoken
        found = self.lexicon.edits(spoken)
        if self.in_words:
            found = edits(spoken, TONGUES[language], found)
        if not found:
            return token
        cells = list(token.said or token.raw)
        owners = [at for at, said in enumerate(cells) for _ in said]  # of each spoken character, the raw one
        made = [""] * len(cells)
        done = 0
        for start, end, words in applied(spoken, found):
            for at in range(done, start):
                made[owners[at]] += spoken[at]
            made[owners[start]] += words
            done = end
        for at in range(done, len(spoken)):
            made[owners[at]] += spoken[at]
        return Text(token.start, token.raw, tuple(made))


AS_IT_STANDS: Final = Wording()

_WORD = re.compile(r"[^\W\d_]+")
_GERMAN_WORDS: Final = """
    der die das den dem des ein eine einen einem einer und oder aber nicht ist sind war waren hat haben wird werden kann können muss soll
    ich du er sie es wir ihr mich dich sich uns euch mit von zu zum zur auf im am bei aus nach für über unter vor als wie so auch noch
    schon nur sehr hier da dort wer was wo warum wenn weil dass kein keine mein dein sein unser um uhr jahr gibt heute morgen bitte danke
    ja nein guten tag hallo kostet euro
    """
_ENGLISH_WORDS: Final = """
    the a an and or but not is are was were has have had will would can could should must i you he she it we they me him her us them with
    of to on at by from for over under before after as like also only very here there who what where why when because that this these
    those no my your his our their in about o'clock year there's it's today tomorrow please thanks yes hello costs dollars there
    """
_GERMAN: Final = frozenset(_GERMAN_WORDS.split())
_ENGLISH: Final = frozenset(_ENGLISH_WORDS.split())


class LanguageGuess:
    """Which language the text so far is in, as far as numbers are concerned."""

    def __init__(self) -> None:
        self._german = 0  # words that only German has, less those that only English has

    def add(self, text: str) -> str:
        """The language of all text added: a key of TONGUES. English where nothing speaks for German."""
        for word in _WORD.findall(text.lower()):
            umlaut = any(char in "äöüß" for char in word)
            self._german += (word in _GERMAN or umlaut) - (word in _ENGLISH)
        return "de" if self._german > 0 else "en"

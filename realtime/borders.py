"""Where a text may be cut, and how well: a level for each position, from what stands before it and the one character behind it.

Knows abbreviations, numbers and the marks of several scripts. Does not know segments, latency or time: the segmenter chooses among these
borders, the alignment takes its words from them. Because one character after a position decides it, the levels do not depend on how the
text came in.
"""

from __future__ import annotations

import unicodedata
from enum import IntEnum
from typing import Final, NamedTuple

from realtime.characters import (
    MAX_CLUSTER,
    UNITS_PER_WORD,
    Clusters,
    Facts,
    Gap,
    Mark,
    Script,
    closes_after,
    facts,
    leads_syllable,
)
from realtime.repertoire import EVERYTHING, Repertoire
from realtime.tags import SpeakerToken, Tag, TagKind, Text, Token

SOUND_WEIGHT: Final = 8  # a laugh or a pause takes about as long as eight letters

_CHUNK_CHARS: Final = 24  # of the word being read; the longest abbreviation with its brackets is shorter
_HYPHENS: Final = frozenset({"-", "--", "---"})
_OPENERS: Final = "\"'([{<*_~`„“‘«»¿¡"

# After these a full stop does not end a sentence. What may also stand at its end (etc., Inc., Jr.) is not here: a border too many costs
# a little melody, and only where a capital follows.
_ABBREVIATION_WORDS: Final = """
    mr mrs ms mx dr drs prof st mt sen rep gov pres hon rev fr gen col maj capt cmdr lt sgt cpl pvt msgr messrs dept
    vs cf ca approx incl excl resp bzw bspw evtl ggf inkl exkl zzgl sog vgl hr dipl ing mme mlle sr sra srta dra ud uds sig dott avv
"""
_ABBREVIATIONS: Final = frozenset(_ABBREVIATION_WORDS.split())
# These are words of their own as well ("Oh no. We sat."), and abbreviations where a number follows.
_NUMBERED_WORDS: Final = """
    no nos nr num fig figs vol vols p pp ch sec art para op est tel ext ed
    jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri sat sun
"""
_NUMBERED: Final = frozenset(_NUMBERED_WORDS.split())


class Level(IntEnum):
    """How good a border is."""

    INSIDE = 0  # never: inside a grapheme, at the very start
    GRAPHEME = 1  # last resort: inside a word, a number or an address, or between a tag and what it belongs to
    WEAK = 2  # between the groups of a number, at a no-break space
    SYLLABLE = 3  # in a script without spaces
    WORD = 4
    CLAUSE = 5
    SENTENCE = 6
    PARAGRAPH = 7  # also: another speaker


class Border(NamedTuple):
    """A position with what stands before it, counted from the start of the turn."""

    pos: int  # code point that it stands in front of
    level: Level
    weight: int  # time it takes to say, in Latin letters
    words: int  # in quarters (UNITS_PER_WORD)
    speakable: int  # letters, digits and sounds that will be heard


class BorderScanner:
    """Reads tokens and gives a border for every code point of text and every tag or speaker token."""

    def __init__(self, sounds: bool, pos: int = 0, repertoire: Repertoire = EVERYTHING) -> None:
        """`sounds`: whether tags that are sounds will be heard (they are not where tags are stripped). `repertoire`: which text will be."""
        self._sounds = sounds
        self._repertoire = repertoire
        # Before the tags and speaker tokens at the end of the input that no text follows yet.
        self.dangling: Border | None = None
        self._pos = self._origin = pos
        self._weight = self._words = self._speakable = 0
        self._clusters = Clusters()
        self._gap = Gap.NONE  # white space since the last other character
        self._lines = 0  # line ends in it
        self._spaced = self._tight = Mark.NONE  # what the marks before the gap end
        self._before_mark_digit = False
        self._numbered = False  # the mark is the full stop of an abbreviation if a number follows
        self._chunk = ""  # what stands since the last gap, and in it
        self._chunk_first = True  # it is the first of its line
        self._in_word = False  # the word being read has been counted
        self._held = False  # the last token was a tag or a speaker token, which belongs to what follows
        self._last = ""  # the last character that is not white space
        self._last_facts: Facts = facts(" ")
        self._speaker: int | None = None

    def scan(self, token: Token) -> list[Border]:
        """The borders in front of each character of a text run, or in front of a tag or a speaker token.

        What stands there decides how good a border is, what is said for it how long it takes.
        """
        if isinstance(token, Text):
            return [self._character(char, said) for char, said in zip(token.raw, token.said or token.raw, strict=True)]
        return [self._mark_token(token)]

    def here(self, level: Level) -> Border:
        """The border at the end of what was read."""
        return Border(self._pos, level, self._weight, self._words, self._speakable)

    @property
    def ends_inside_cluster(self) -> bool:
        """Whether the last character makes no sense without the next one: half a flag, a joiner."""
        return self._clusters.unfinished

    @property
    def ends_word(self) -> bool:
        """Whether the end of what was read is, as far as one can tell without what follows, the end of a word."""
        if self._gap or self._held or not self._last:
            return True
        if self._spaced is not Mark.NONE:
            address = any(char in "./@:" for char in self._chunk[:-1].rstrip(".")) and self._last in ".:"
            return not (self._before_mark_digit or address)
        return self._last_facts.script is not Script.SPACED and not leads_syllable(self._last)

    @property
    def ends_number(self) -> bool:
        """Whether the last character is a digit: more of the number, or what it counts, may follow at once."""
        return not self._gap and not self._held and self._last_facts.digit

    def _character(self, char: str, said: str) -> Border:
        found = facts(char)
        joined = self._clusters.joins(char)
        if found.gap:
            level = Level.INSIDE if joined or self._pos == self._origin else Level.GRAPHEME
            border = self.here(level)
            self._read_space(char, found, said)
        else:
            border = self.here(self._level(char, found, joined))
            self._read(char, found, border.level, said)
        self._pos += 1
        return border

    def _read_space(self, char: str, found: Facts, said: str) -> None:
        if not self._gap and said:
            self._weight += found.weight
        self._gap = max(self._gap, found.gap)
        if found.line and not (char == "\n" and self._clusters.length == 2):  # CR LF is one line end
            self._lines += 1

    def _read(self, char: str, found: Facts, level: Level, said: str) -> None:
        if self._gap:
            self._chunk_first = self._lines > 0
            self._chunk = ""
        if self._gap or level >= Level.SYLLABLE:
            self._in_word = False
        self._note_mark(char, found)
        self._chunk = (self._chunk + char)[-_CHUNK_CHARS:]
        self._gap, self._lines = Gap.NONE, 0
        self._held, self.dangling = False, None
        self._last, self._last_facts = char, found
        for sound in said:
            self._count(sound, facts(sound))

    def _count(self, sound: str, found: Facts) -> None:
        """A character that is spoken, if it can be."""
        if not self._repertoire.reads(sound):
            return
        self._weight += found.weight
        if found.speakable:
            self._speakable += 1
            self._words += found.word_units or (0 if self._in_word else UNITS_PER_WORD)
            self._in_word = True

    def _note_mark(self, char: str, found: Facts) -> None:
        """Update what the marks before the next gap end."""
        goes_on = not self._gap and self._spaced is not Mark.NONE
        if found.spaced is not Mark.NONE:
            if not goes_on:
                self._before_mark_digit = not self._gap and self._last_facts.digit
                self._numbered = char == "." and not self._gap and self._chunk_word().casefold() in _NUMBERED
            if char == "." and not goes_on and self._abbreviated():
                self._spaced = self._tight = Mark.NONE
                return
            self._spaced = max(self._spaced, found.spaced) if goes_on else found.spaced
            self._tight = max(self._tight, found.tight) if goes_on else found.tight
        elif not (goes_on and closes_after(char, self._tight is not Mark.NONE)):
            self._spaced = self._tight = Mark.NONE

    def _chunk_word(self) -> str:
        return "" if self._gap else self._chunk.lstrip(_OPENERS)

    def _abbreviated(self) -> bool:
        """Whether a full stop after the current chunk is part of an abbreviation, an initial or a number in a list."""
        word = self._chunk_word()
        if word.isdigit():
            return self._chunk_first or len(word) <= 2
        if len(word) == 1:
            return word.isalpha() and word != "I"
        pieces = word.split(".")
        if len(pieces) > 1:
            return all(0 < len(piece) <= 2 and piece.isalpha() for piece in pieces)
        return word.casefold() in _ABBREVIATIONS

    def _level(self, char: str, found: Facts, joined: bool) -> Level:
        """The level in front of a character that is not white space."""
        if self._pos == self._origin:
            return Level.INSIDE
        if joined:
            return Level.GRAPHEME if self._clusters.length > MAX_CLUSTER else Level.INSIDE
        if self._held:
            return Level.GRAPHEME
        if self._lines:
            return Level.PARAGRAPH if self._lines > 1 else Level.SENTENCE
        if found.spaced is not Mark.NONE or (found.closes and (not self._gap or not _may_open(char))):
            return Level.GRAPHEME
        marked = self._marked(char, found)
        if marked is not None:
            return marked
        if self._gap:
            return self._spaced_level(char, found)
        return self._unspaced_level(char, found)

    def _marked(self, char: str, found: Facts) -> Level | None:
        """The level that the marks before a character give, if they give one."""
        unspaced = found.script is not Script.SPACED
        mark = self._spaced if self._gap or unspaced else self._tight
        if self._tight is Mark.CLAUSE and not self._gap:
            mark = min(mark, Mark.CLAUSE)  # an ellipsis that runs on
        if mark is Mark.NONE or (found.digit and (self._numbered or (self._before_mark_digit and not self._gap))):
            return None
        if mark is Mark.CLAUSE or char.islower():
            return Level.CLAUSE
        return Level.SENTENCE

    def _spaced_level(self, char: str, found: Facts) -> Level:
        if self._chunk in _HYPHENS:
            return Level.WEAK if self._chunk_first else Level.CLAUSE  # a list's bullet, or a dash
        if self._gap is Gap.ZERO_WIDTH:
            return Level.WORD
        if self._gap is Gap.NO_BREAK or char == "-" or self._counts(char, found):
            return Level.WEAK
        if found.script is not Script.SPACED and self._last_facts.script is not Script.SPACED:
            return Level.CLAUSE  # there spaces stand between phrases
        return Level.WORD

    def _counts(self, char: str, found: Facts) -> bool:
        """Whether a number goes on behind the gap, or what it counts stands there: they are said together (5 km, $5 million, 5. März)."""
        if found.digit:
            return self._last_facts.digit or (self._last != "" and unicodedata.category(self._last) == "Sc")
        number = self._last_facts.digit or (self._last == "." and self._chunk[:-1].isdigit())
        return number and (found.speakable or char in "%‰°€$£¥₹")

    def _unspaced_level(self, char: str, found: Facts) -> Level:
        left, right = self._last_facts.script, found.script
        if (left is Script.SPACED and right is Script.SPACED) or found.depends or leads_syllable(self._last):
            return Level.GRAPHEME
        if not (found.speakable or found.opens) or not (self._last_facts.speakable or self._last_facts.closes):
            return Level.GRAPHEME
        if left is Script.CLUSTERED and leads_syllable(char):
            return Level.WORD
        if left is Script.HIRAGANA and right in (Script.IDEOGRAPH, Script.KATAKANA):
            return Level.WORD  # where most Japanese phrases begin
        return Level.SYLLABLE

    def _mark_token(self, token: Tag | SpeakerToken) -> Border:
        border = self.here(self._token_level(token))
        if isinstance(token, SpeakerToken):
            self._speaker = token.speaker
        if (
            isinstance(token, Tag)
            and token.kind is TagKind.SOUND
            and self._sounds
            and self._repertoire.reads_all(token.name)
        ):
            self._speakable += 1
            self._weight += SOUND_WEIGHT
            self.dangling = None
        elif self.dangling is None:
            self.dangling = border
        self._pos += len(token.raw)
        self._clusters = Clusters()
        self._gap, self._lines = Gap.NONE, 0
        self._spaced = self._tight = Mark.NONE
        self._chunk, self._chunk_first, self._in_word = "", False, False
        self._held = True
        self._last, self._last_facts = "", facts(" ")
        return border

    def _token_level(self, token: Tag | SpeakerToken) -> Level:
        if self._pos == self._origin:
            return Level.INSIDE
        if isinstance(token, SpeakerToken) and token.speaker != self._speaker:
            return Level.PARAGRAPH
        if self._held:
            return Level.GRAPHEME
        if self._lines:
            return Level.PARAGRAPH if self._lines > 1 else Level.SENTENCE
        mark = max(self._spaced, self._tight)
        return {Mark.NONE: Level.WORD, Mark.CLAUSE: Level.CLAUSE, Mark.SENTENCE: Level.SENTENCE}[mark]


def _may_open(char: str) -> bool:
    """Whether a character that closes after a mark opens after white space: straight quotes, Markdown's asterisks, controls."""
    return char in "\"'*_~`" or not char.isprintable()

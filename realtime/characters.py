"""What single characters mean for cutting text: scripts, white space, marks that end a clause, and which characters join into one.

Knows Unicode (UAX #29 and #31 by way of the standard library's tables); does not know tags, words, borders or turns. Where the library has
no table for a rule, two characters are joined too often rather than too seldom: a border that is missing costs nothing.
"""

from __future__ import annotations

import unicodedata
from enum import Enum, IntEnum
from functools import lru_cache
from typing import NamedTuple

MAX_CLUSTER = 32  # code points; above it a border may fall inside: UAX #15's stream-safe format allows 30 combining marks, emoji need 11

UNITS_PER_WORD = 4  # words are counted in quarters, because scripts without spaces have characters and no words


class Script(Enum):
    """How a script tells words apart."""

    SPACED = "spaced"  # Latin, Arabic, Devanagari, Hangul, ...: by white space
    IDEOGRAPH = "ideograph"  # not at all; every character can stand alone
    HIRAGANA = "hiragana"
    KATAKANA = "katakana"
    CLUSTERED = "clustered"  # Thai, Lao, Khmer, Myanmar, ...: not at all; consonants with vowels and tones around them


class Gap(IntEnum):
    """What stands between two words, weakest first."""

    NONE = 0
    NO_BREAK = 1
    ZERO_WIDTH = 2  # marks the borders of words in Thai or Khmer
    SPACE = 3


class Mark(IntEnum):
    """What a punctuation mark ends."""

    NONE = 0
    CLAUSE = 1
    SENTENCE = 2


class Facts(NamedTuple):
    """What is known of one character."""

    script: Script
    gap: Gap  # NONE: it is not white space
    line: bool  # it ends a line
    spaced: Mark  # what it ends where white space follows
    tight: Mark  # what it ends where none follows
    opens: bool  # bracket or quotation mark that opens
    closes: bool  # stays with what stands before it: closing brackets and quotes, marks, Markdown's asterisks, invisible controls
    depends: bool  # never begins a piece: prolonged sounds, small kana, vowels that are written after their consonant
    speakable: bool  # letter or digit
    digit: bool
    weight: int  # time it takes to say, in Latin letters
    word_units: int  # quarters of a word that it counts for, in scripts without spaces


_LINE_ENDS = frozenset("\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029")
_NO_BREAK = frozenset("\u00a0\u2007\u202f")
_SENTENCE_SPACED = frozenset(".!?‽⁇⁈⁉…։׃؟۔።")
_SENTENCE_TIGHT = frozenset("。！？｡．।॥؟۔።។៕။᠃᠉꓿")
_CLAUSE_SPACED = frozenset(",;:،؛፣፤፥–")
_CLAUSE_TIGHT = frozenset("，、；：､﹐﹑﹔﹕،؛၊፣፤—―…᠂།")
_SIMPLE_CLOSERS = frozenset("\"'*_~`")
_FULL_WIDTH_OPENERS = frozenset("“‘")  # closers only after marks that need white space (German writes „so.“)

_IDEOGRAPHS = (
    (0x3005, 0x3007),
    (0x3100, 0x312F),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xA000, 0xA4CF),
    (0xF900, 0xFAFF),
    (0x20000, 0x323AF),
)
_CLUSTERED = (
    (0x0E00, 0x0FFF),  # Thai, Lao, Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x1AAF),  # Tai Le, New Tai Lue, Khmer symbols, Buginese, Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
)
_LEADING_VOWELS = frozenset("เแโใไເແໂໃໄ")  # written before the consonant they follow: always the start of a syllable
_FOLLOWING = frozenset("ะาำๅฯๆะາຳຯໆー々〻ゝゞヽヾ")  # Thai, Lao: end a syllable; kana and kanji: repeat or lengthen


def _within(code: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(first <= code <= last for first, last in ranges)


def _script(char: str, category: str) -> Script:
    code = ord(char)
    if category[0] not in "LM" and code != 0x3007:
        return Script.SPACED
    if 0x3040 <= code <= 0x309F:
        return Script.HIRAGANA
    if 0x30A0 <= code <= 0x30FF or 0x31F0 <= code <= 0x31FF or 0xFF66 <= code <= 0xFF9F:
        return Script.KATAKANA
    if _within(code, _IDEOGRAPHS):
        return Script.IDEOGRAPH
    return Script.CLUSTERED if _within(code, _CLUSTERED) else Script.SPACED


def _gap(char: str) -> Gap:
    if char == "\u200b":
        return Gap.ZERO_WIDTH
    if char in _NO_BREAK:
        return Gap.NO_BREAK
    return Gap.SPACE if char.isspace() else Gap.NONE


# Against 175 words a minute: a Latin letter takes 65 ms, an ideograph or a Hangul syllable about 200, a kana 120, a digit 200.
_WEIGHT = {Script.IDEOGRAPH: 3, Script.HIRAGANA: 2, Script.KATAKANA: 2}
# A Chinese word has two characters, a Japanese one written in kana rather more, a Thai one four consonants and independent vowels.
_WORD_UNITS = {Script.IDEOGRAPH: 2, Script.HIRAGANA: 2, Script.KATAKANA: 2, Script.CLUSTERED: 1}


@lru_cache(maxsize=8192)
def facts(char: str) -> Facts:
    """What is known of one character (a string of one code point)."""
    category = unicodedata.category(char)
    script = _script(char, category)
    gap = _gap(char)
    spaced = tight = Mark.NONE
    if char in _SENTENCE_TIGHT:
        spaced = tight = Mark.SENTENCE
    elif char in _SENTENCE_SPACED:
        spaced = Mark.SENTENCE
    elif char in _CLAUSE_TIGHT or char in _CLAUSE_SPACED:
        spaced = Mark.CLAUSE
    if char in _CLAUSE_TIGHT:
        tight = Mark.CLAUSE
    digit = category == "Nd"
    speakable = category[0] in "LN"
    hangul = 0xAC00 <= ord(char) <= 0xD7A3
    return Facts(
        script=script,
        gap=gap,
        line=char in _LINE_ENDS,
        spaced=spaced,
        tight=tight,
        opens=category in ("Ps", "Pi"),
        closes=category in ("Pe", "Pf", "Cf") or char in _SIMPLE_CLOSERS or spaced is not Mark.NONE,
        depends=char in _FOLLOWING or (script in _WEIGHT and "LETTER SMALL" in unicodedata.name(char, "")),
        speakable=speakable,
        digit=digit,
        weight=3 if digit or hangul else _WEIGHT.get(script, 1),
        word_units=_WORD_UNITS.get(script, 0) if speakable else 0,
    )


def closes_after(char: str, tight_mark: bool) -> bool:
    """Whether a character that follows a mark at once belongs to it: “ opens after an ideographic full stop and closes after `.`."""
    found = facts(char)
    return found.closes or (char in _FULL_WIDTH_OPENERS and not tight_mark)


def leads_syllable(char: str) -> bool:
    """Whether a character of a script without spaces is always the first of a syllable, and never its last."""
    return char in _LEADING_VOWELS


def _is(char: str, first: int, last: int) -> bool:
    return first <= ord(char) <= last


_PREPENDED = frozenset(  # rule GB9b
    "\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd\U000111c2\U000111c3"
    "\U0001193f\U00011941\U00011a3a\U00011a84\U00011a85\U00011a86\U00011a87\U00011a88\U00011a89\U00011d46\U00011f02"
)


_FIRST_MARK = "\u0300"  # no rule but the one for line ends (GB3) is about characters before it


@lru_cache(maxsize=8192)
def _extends(char: str) -> bool:
    """Whether a character always joins the one before it (rules GB9 and GB9a)."""
    if char in "\u200c\u200d\u0e33\u0eb3\uff9e\uff9f" or unicodedata.category(char)[0] == "M":
        return True
    return _is(char, 0x1F3FB, 0x1F3FF) or _is(char, 0xE0020, 0xE007F)


@lru_cache(maxsize=8192)
def _holds(char: str) -> bool:
    """Whether a character after this one joins it: joiners and viramas (rules GB9c and GB11, for any character but white space)."""
    return char == "\u200d" or unicodedata.combining(char) == 9


def _hangul(left: str, right: str) -> bool:
    """Whether two characters stand in one Hangul syllable (rules GB6 to GB8, and a little more)."""
    vowel_or_final = _is(right, 0x1160, 0x11FF) or _is(right, 0xD7B0, 0xD7FF)
    leading = _is(left, 0x1100, 0x115F) or _is(left, 0xA960, 0xA97C)
    if vowel_or_final:
        return leading or _is(left, 0x1160, 0x11FF) or _is(left, 0xAC00, 0xD7FF)
    return leading and (_is(right, 0xAC00, 0xD7A3) or _is(right, 0x1100, 0x115F) or _is(right, 0xA960, 0xA97C))


def _flag_letter(char: str) -> bool:
    return _is(char, 0x1F1E6, 0x1F1FF)


class Clusters:
    """Finds grapheme clusters in a text that comes one character after the other."""

    def __init__(self) -> None:
        self._last = ""  # the character before, "" at the start
        self._holding = False  # a joiner or virama came, and since then only what extends it
        self._flags = 0  # flag letters since the last other character: they pair up
        self.length = 0  # code points of the cluster that the last character belongs to

    def joins(self, char: str) -> bool:
        """Take the next character; whether it belongs to the cluster of the one before it."""
        left = self._last
        if char < _FIRST_MARK and left < _FIRST_MARK:  # nearly all text: a twentieth of the time that the rules take
            joined = left == "\r" and char == "\n"
            self.length = self.length + 1 if joined else 1
            self._last = char
            return joined
        joined = left != "" and (
            _extends(char)
            or left in _PREPENDED
            or (self._holding and not facts(char).gap)
            or (left == "\r" and char == "\n")
            or (_flag_letter(char) and self._flags % 2 == 1)
            or (ord(char) >= 0x1100 and _hangul(left, char))
        )
        self._holding = _holds(char) or (self._holding and _extends(char))
        self._flags = self._flags + 1 if _flag_letter(char) else 0
        self.length = self.length + 1 if joined else 1
        self._last = char
        return joined

    @property
    def unfinished(self) -> bool:
        """Whether the last character makes no sense without another one. (A virama does: it ends words, too.)"""
        return self._last in ("\u200d", "\r") or self._last in _PREPENDED or self._flags % 2 == 1

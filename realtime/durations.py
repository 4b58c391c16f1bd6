"""How long text takes to say, without a model: milliseconds for a word, a pause, a sound.

Knows letters of many scripts. Does not know segments or audio; whoever has audio scales these to it, so only their ratios matter then. The
numbers for Latin letters, digits and pauses are a fit to espeak-ng's word events (English, its normal 175 words a minute).
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Final

from realtime.borders import Level
from realtime.characters import Script, facts

# Pause in front of a word, by the border that stands there.
PAUSE_MS: Final = {Level.CLAUSE: 320.0, Level.SENTENCE: 480.0, Level.PARAGRAPH: 520.0}
END_MS: Final = 150.0  # what a segment's audio goes on after its last word

_WORD_MS: Final = 35.0
_VOWEL_MS: Final = 66.0  # the first of a group; the others sound as one with it
_LETTER_MS: Final = 46.0
_DIGIT_MS: Final = 380.0
_ZERO_MS: Final = 115.0  # zeros are mostly part of a power of ten
_SPELLED_MS: Final = 150.0  # a letter of an abbreviation in capitals
_SYMBOL_MS: Final = 300.0  # read as a word: percent, slash, dot inside an address
_SCRIPT_MS: Final = {Script.IDEOGRAPH: 220.0, Script.HIRAGANA: 130.0, Script.KATAKANA: 130.0, Script.CLUSTERED: 75.0}
_HANGUL_MS: Final = 180.0
_SIGN_MS: Final = 30.0  # a vowel sign or tone mark
_VOWELS: Final = frozenset("aeiouyæøœаеёиоуыэюяіїєαεηιοωυ")
_SYMBOLS: Final = frozenset("%$€£¥₹+=&@#°§/\\")
_SPELLED = re.compile(r"[A-Z]{2,4}s?\Z")
_NUMBER = re.compile(r"([0-9]+(?:[.,][0-9]+)?)\s*(ms|milliseconds?|s|secs?|seconds?)?\b")

_SOUND_MS: Final = {
    "pause": 600.0,
    "beat": 500.0,
    "silence": 1000.0,
    "break": 600.0,
    "laugh": 900.0,
    "sigh": 800.0,
    "cough": 600.0,
}
_OTHER_SOUND_MS: Final = 600.0
_SHORT: Final = 0.5
_LONG: Final = 2.0


def sound_ms(name: str) -> float:
    """Time that a sound takes, from its tag's name: `long pause`, `pause 500ms`, `laughs softly`."""
    found = _NUMBER.search(name)
    if found and found[2]:
        number = float(found[1].replace(",", "."))
        return number if found[2].startswith("m") else number * 1000
    base = next((ms for stem, ms in _SOUND_MS.items() if stem in name), _OTHER_SOUND_MS)
    if "short" in name or "brief" in name:
        return base * _SHORT
    return base * _LONG if "long" in name else base


def spoken_ms(word: str) -> float:
    """Time that one word takes, punctuation and brackets around it included."""
    bare = word.strip("\"'()[]{}.,;:!?*_")
    if _SPELLED.match(bare):
        return _WORD_MS + _SPELLED_MS * len(bare)
    total = _WORD_MS
    after_vowel = False
    for index, char in enumerate(word):
        vowel = _is_vowel(char)
        total += 0.0 if vowel and after_vowel else _char_ms(char)
        if char in ".:" and word[index + 1 : index + 2].isalpha():
            total += _SYMBOL_MS  # the dot of an address; the point of a number is as short as its pause
        after_vowel = vowel
    return total


@lru_cache(maxsize=4096)
def _is_vowel(char: str) -> bool:
    return unicodedata.normalize("NFD", char)[0].casefold() in _VOWELS


@lru_cache(maxsize=8192)
def _char_ms(char: str) -> float:
    found = facts(char)
    if found.digit:
        return _ZERO_MS if unicodedata.digit(char) == 0 else _DIGIT_MS
    if char in _SYMBOLS:
        return _SYMBOL_MS
    if unicodedata.category(char)[0] == "M" or found.depends:
        return _SIGN_MS
    if not found.speakable:
        return 0.0
    if found.script in _SCRIPT_MS:
        return _SCRIPT_MS[found.script]
    if "\uac00" <= char <= "\ud7a3":
        return _HANGUL_MS
    if _is_vowel(char):
        return _VOWEL_MS
    return _LETTER_MS if unicodedata.normalize("NFD", char)[0] < "\u0530" else 80.0  # abjads and abugidas imply vowels

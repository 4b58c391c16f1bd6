"""Texts as sequences of words, and how far two of them are apart: what a word error rate is computed on.

Knows what two transcripts of the same speech may differ in and still be right: case, punctuation, digits or number words (English and
Chinese), "p.m." or "pm", "Dr." or "Doctor". Text in Han, kana and Hangul is compared by character. Does not know spelling variants of
one word ("colour", traditional characters), numbers in other languages, or any recogniser.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from engine.evaluate.numerals import chinese_cardinal, chinese_digits, english_cardinal, english_ordinal, english_year


@dataclass(frozen=True, slots=True)
class Errors:
    """Word errors of one transcript or, added up, of many."""

    edits: int  # words inserted, left out or replaced
    words: int  # of the text that was to be said

    @property
    def rate(self) -> float:
        """Edits per word; can exceed 1. Without any word: 0 if nothing was heard, else the number of words heard."""
        return self.edits / max(1, self.words)

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.edits + other.edits, self.words + other.words)


def word_errors(text: str, heard: str, language: str) -> Errors:
    """Errors of the transcript `heard` of speech that should say `text`, which is in `language` (see `words`).

    A number like 1984 may be read as a year or as a count: the reading that fits the transcript better is taken.
    """
    return min((_errors(text, heard, language, years) for years in (True, False)), key=lambda errors: errors.rate)


def language_of(text: str) -> str:
    """Two-letter code by the script alone: "ja" for kana, "ko" for Hangul, "zh" for Han, "de" for umlauts and sharp s, else "en"."""
    for language, characters in _SCRIPTS:
        if re.search(characters, text, re.IGNORECASE):
            return language
    return "en"


def words(text: str, language: str = "en", *, years: bool = True) -> list[str]:
    """Words of `text`, comparable: lower case without punctuation, characters of East Asian scripts one by one.

    language: "en" or "zh" for its numbers in words, any other leaves digits. years: four digits without a comma are read as a year.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    if language == "en":
        text = _english(text, years)
    elif language == "zh":
        text = _chinese(text)
    return _joined_letters("".join(map(_spaced, text)).split())


def edit_distance(wanted: Sequence[str], heard: Sequence[str]) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other."""
    row = list(range(len(heard) + 1))
    for i, word in enumerate(wanted, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


# Han with its extensions and iteration mark, kana with the long-vowel mark, Hangul.
_HAN = r"[\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]"
_KANA = r"[\u3041-\u3096\u30a1-\u30fc]"
_HANGUL = r"[\uac00-\ud7a3]"
_BY_CHARACTER = re.compile(f"{_HAN}|{_KANA}|{_HANGUL}")
_SCRIPTS = (
    ("ja", _KANA),
    ("ko", _HANGUL),
    ("zh", _HAN),
    ("de", "[äöüß]"),
)  # in this order: Japanese is written in Han too
_HAN_VARIANTS = str.maketrans({"两": "二", "〇": "零"})  # 200 is read either way
_WRITTEN_SHORT = {
    "dr": "doctor",
    "mr": "mister",
    "mrs": "missus",
    "prof": "professor",
    "vs": "versus",
    "etc": "et cetera",
    "e.g": "for example",
    "i.e": "that is",
}
_SHORT = re.compile(r"\b(" + "|".join(map(re.escape, _WRITTEN_SHORT)) + r")\b\.?")
_CURRENCIES = {"$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", "sen")}
_PLURALS = {"penny": "pence", "yen": "yen", "sen": "sen"}
_SCALE = r"(?:\s+(hundred|thousand|million|billion|trillion)\b)?"
_MONEY = re.compile(r"([$€£¥])\s*(\d+(?:,\d{3})*)(?:\.(\d{1,2})(?!\d))?" + _SCALE)
_NUMBER_WORDS = frozenset(
    word for value in (*range(100), 100, 1000, 10**6, 10**9) for word in english_cardinal(value).split()
)


def _errors(text: str, heard: str, language: str, years: bool) -> Errors:
    read = partial(words, language=language, years=years)
    wanted = read(text)
    return Errors(edit_distance(wanted, read(heard)), len(wanted))


def _english(text: str, years: bool) -> str:
    text = _SHORT.sub(lambda found: _WRITTEN_SHORT[found[1]], text)
    text = re.sub(r"\b((?:[a-z]\.)+[a-z])\b\.?", lambda found: found[1].replace(".", ""), text)  # u.s., p.m.
    text = text.replace("&", " and ")
    text = _MONEY.sub(_money, text)
    text = re.sub(r"(?<![\w-])[-−](?=\d)", " minus ", text)
    text = re.sub(r"(\d)\s*%", r"\1 percent", text).replace("per cent", "percent")
    text = re.sub(r"\b(\d{1,2}):(\d\d)\b", _time, text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "_", text)  # marks a count: 1,984 is no year
    text = re.sub(r"\b(\d[\d_]*)(st|nd|rd|th)\b", _ordinal, text)
    text = re.sub(r"(?<!\d)(\d[\d_]*)\.(\d+)", _decimal, text)
    text = re.sub(r"\d[\d_]*", partial(_whole, years=years), text)
    return _without_and(text)


def _number(digits: str) -> str:
    """Digits, perhaps with marks of thousands, as a count; a code or a telephone number (a zero first, or too long) one by one."""
    digits = re.sub(r"\D", "", digits)
    if (digits[0] == "0" and len(digits) > 1) or len(digits) > 15:
        return " ".join(english_cardinal(int(digit)) for digit in digits)
    return english_cardinal(int(digits))


def _ordinal(found: re.Match[str]) -> str:
    digits = found[1].replace("_", "")
    return english_ordinal(int(digits)) if len(digits) <= 15 else found[0]


def _money(found: re.Match[str]) -> str:
    """ "$3.50" is "three dollars fifty cents", "$4.5 million" becomes "4.5 million dollars"."""
    large, small = _CURRENCIES[found[1]]
    if found[4]:
        number = f"{found[2]}.{found[3]}" if found[3] else found[2]
        return f"{number} {found[4]} {_plural(large)}"
    said = f" {_number(found[2])} {large if found[2] == '1' else _plural(large)} "
    part = int((found[3] or "0").ljust(2, "0"))
    return said + (f"{english_cardinal(part)} {small if part == 1 else _plural(small)} " if part else "")


def _plural(unit: str) -> str:
    return _PLURALS.get(unit, unit + "s")


def _time(found: re.Match[str]) -> str:
    hour, minute = int(found[1]), int(found[2])
    said = "" if minute == 0 else ("oh " if minute < 10 else "") + english_cardinal(minute)
    return f" {english_cardinal(hour)} {said} "


def _decimal(found: re.Match[str]) -> str:
    return f" {_number(found[1])} point {' '.join(english_cardinal(int(digit)) for digit in found[2])} "


def _whole(found: re.Match[str], years: bool) -> str:
    if years and re.fullmatch(r"1[1-9]\d\d|20[1-9]\d", found[0]):
        return f" {english_year(int(found[0]))} "
    return f" {_number(found[0])} "


def _without_and(text: str) -> str:
    """ "one hundred and five", "a hundred five" and "three dollars and ten cents" lose what not everybody says."""
    text = re.sub(r"\ba (?=(hundred|thousand|million|billion|trillion)\b)", "one ", text)
    return re.sub(r"\b(hundred|thousand|million|billion|dollars?|euros?|pounds?) and (\w+)", _drop_and, text)


def _drop_and(found: re.Match[str]) -> str:
    return f"{found[1]} {found[2]}" if found[2] in _NUMBER_WORDS else found[0]


def _spaced(char: str) -> str:
    """A character as it separates: apostrophes and invisible ones vanish, letters with their marks and digits stay."""
    if _BY_CHARACTER.match(char):
        return f" {char} "
    category = unicodedata.category(char)
    if char == "'" or category == "Cf":
        return ""
    return char if category[0] in "LMN" else " "


def _chinese(text: str) -> str:
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    text = re.sub(r"(\d+(?:\.\d+)?)\s*%", r"百分之\1", text)
    text = re.sub(r"(?<!\d)\d{4}(?=年)", lambda found: chinese_digits(found[0]), text)
    text = re.sub(r"(\d+)\.(\d+)", lambda found: _chinese_number(found[1]) + "点" + chinese_digits(found[2]), text)
    text = re.sub(r"\d+", lambda found: _chinese_number(found[0]), text)
    return text.translate(_HAN_VARIANTS)


def _chinese_number(digits: str) -> str:
    if (digits[0] == "0" and len(digits) > 1) or len(digits) > 12:
        return chinese_digits(digits)
    return chinese_cardinal(int(digits))


def _joined_letters(tokens: Iterable[str]) -> list[str]:
    """ "u s" is "us", as "U.S." and "US" are: runs of single Latin letters become one word."""
    joined: list[str] = []
    letters = False  # whether the last word is such a run
    for token in tokens:
        single = len(token) == 1 and token.isascii() and token.isalpha()
        if single and letters:
            joined[-1] += token
        else:
            joined.append(token)
        letters = single
    return joined

"""What one language says for numbers, units, money and symbols: the words, without where in a text they stand.

Knows how digits become words (num2words does). Does not know sentences (`realtime.expansion`) or which languages there are
(`realtime.english`, `realtime.german`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from num2words import num2words

MOST_DIGITS: Final = 15  # longer ones are read digit by digit: nobody counts in quadrillions
CODE_DIGITS: Final = 10  # as many without marks between them are an account, not a count


@dataclass(frozen=True, slots=True)
class Noun:
    """A unit or a currency."""

    one: str
    many: str
    article: str = ""  # the number one in front of it, where the language has several


@dataclass(frozen=True, slots=True)
class Currency:
    """Money: the unit and its hundredth."""

    unit: Noun
    part: Noun | None


@dataclass(frozen=True, slots=True)
class Tongue:
    """One language. The functions get what `realtime.expansion` found and return words."""

    code: str  # as num2words names it
    group: str  # mark between thousands, for a pattern
    decimal: str  # mark before decimals, for a pattern
    point: str  # as it is said
    minus: str
    to: str  # between the ends of a range
    per: str  # between an amount and what it is for
    against: str  # between the sides of a ratio
    by: str  # between the sides of an area
    at: str
    dot: str
    underline: str
    dash: str
    one: str  # the number one in front of a noun
    years: Callable[[str, int, int], bool]  # whether four digits at text[start:end] are a year
    clock: Callable[[int, int, int | None], tuple[str, str]]  # what is said for the time and for a word behind it (Uhr)
    day: Callable[[int, str], str]  # a day of the month, from the text before it
    date: Callable[[int, int, int | None, str], str]  # day, month, year, the text before it
    money_and: str  # between the unit and its hundredths
    months: Mapping[str, int]  # names and abbreviations in lower case
    units: Mapping[str, Noun]
    currencies: Mapping[str, Currency]  # by sign and by code
    scales: Mapping[str, Noun]  # words and abbreviations behind a number that is an amount: million, Mio.
    symbols: Mapping[str, str]  # single characters that no rule took
    fraction: Callable[[int, int], str]

    def cardinal(self, value: int) -> str:
        """A count."""
        return _cardinal(self.code, value)

    def ordinal(self, value: int) -> str:
        """As the language's dictionary has it: fifth, fünfte."""
        return str(num2words(value, lang=self.code, to="ordinal")).replace(",", "")

    def year(self, value: int) -> str:
        """Four digits as a year."""
        return str(num2words(value, lang=self.code, to="year")).replace(",", "")

    def digits(self, digits: str) -> str:
        """One by one; other characters are left out."""
        return " ".join(self.cardinal(int(digit)) for digit in digits if digit.isdecimal())

    def number(self, whole: str, decimals: str | None = None) -> str:
        """Digits with or without marks of thousands, and what stands behind the decimal mark."""
        plain = "".join(char for char in whole if char.isdecimal())
        coded = len(plain) > MOST_DIGITS or (plain == whole and len(plain) >= CODE_DIGITS)
        coded = coded or (plain[:1] == "0" and len(plain) > 1)
        said = self.digits(plain) if coded else self.cardinal(int(plain))
        return said if decimals is None else f"{said} {self.point} {self.digits(decimals)}"

    def counted(self, noun: Noun, whole: str, decimals: str | None) -> tuple[str, str]:
        """The number in front of a noun, and the noun."""
        if decimals is None and whole == "1":
            return noun.article or self.one, noun.one
        return self.number(whole, decimals), noun.many


@lru_cache(maxsize=4096)
def _cardinal(code: str, value: int) -> str:
    """Some 30 us without the cache; a long number has hundreds of digits."""
    return str(num2words(value, lang=code)).replace(",", "")

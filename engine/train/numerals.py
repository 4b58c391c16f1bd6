"""Numbers as a server writes them out for the mini, so that training text has them as words, too.

Knows the shapes of numbers that text_en.py and text_de.py make, and num2words. Does not know sentences.
"""

from __future__ import annotations

import random
import re

from num2words import num2words

_WRITTEN = 0.5  # share of numbers that are words
_NUMBER = re.compile(
    r"(?P<sign>[$£])?"
    r"(?:(?P<hour>\d{1,2}):(?P<minute>\d\d)(?P<uhr> Uhr)?"
    r"|(?P<whole>\d+(?:,\d{3})*)(?:\.(?P<part>\d+))?(?P<end>st|nd|rd|th|%|\.(?= [A-Z]))?)"
)


def perhaps_in_words(text: str, language: str, rng: random.Random, single: bool = False) -> str:
    """`text`, or half of the time the same with its numbers in words. language: "en" or "de". single: as a telephone number is said."""
    if rng.random() > _WRITTEN:
        return text
    if single and rng.random() < 0.7:
        return re.sub(r"\d+", lambda found: " ".join(_cardinal(int(digit), language) for digit in found[0]), text)
    return _NUMBER.sub(lambda found: _words(found, language, rng), text)


def _words(found: re.Match[str], language: str, rng: random.Random) -> str:
    if found["hour"]:
        return _clock(int(found["hour"]), int(found["minute"]), language)
    digits = found["whole"].replace(",", "")
    if len(digits) > 1 and digits[0] == "0":
        return " ".join(_cardinal(int(digit), language) for digit in digits)
    value, part, end = int(digits), found["part"], found["end"]
    if found["sign"]:
        return _money(value, part, "dollar" if found["sign"] == "$" else "pound")
    if end in ("st", "nd", "rd", "th"):
        return str(num2words(value, to="ordinal", lang=language))
    if end == ".":  # 3. Mai
        return str(num2words(value, to="ordinal", lang=language)) + rng.choice(("r", "n"))
    if part:
        point = " point " if language == "en" else " Komma "
        said = _cardinal(value, language) + point + " ".join(_cardinal(int(digit), language) for digit in part)
    elif 1500 < value < 2100 and "," not in found["whole"] and rng.random() < 0.7:
        said = str(num2words(value, to="year", lang=language))
    else:
        said = _cardinal(value, language)
    return said + (" percent" if end == "%" else "")


def _cardinal(value: int, language: str) -> str:
    return str(num2words(value, lang=language)).replace(",", "")


def _money(value: int, part: str | None, unit: str) -> str:
    said = f"{_cardinal(value, 'en')} {unit}{'' if value == 1 else 's'}"
    if part and int(part):
        small = ("cent" if int(part) == 1 else "cents") if unit == "dollar" else "pence"
        said += f" and {_cardinal(int(part), 'en')} {small}"
    return said


def _clock(hour: int, minute: int, language: str) -> str:
    if language == "de":
        return f"{_cardinal(hour, language)} Uhr {_cardinal(minute, language) if minute else ''}".rstrip()
    if not minute:
        return _cardinal(hour, language)
    return f"{_cardinal(hour, language)} {'oh ' if minute < 10 else ''}{_cardinal(minute, language)}"

"""Whole numbers in English and Chinese words.

Knows cardinals, ordinals and years as they are said. Does not know where in a text a number stands, or what it counts (wording.py).
"""

from __future__ import annotations

_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (10**3, "thousand"), (100, "hundred"))
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
_HAN_DIGITS = "零一二三四五六七八九"
_HAN_PLACES = ("千", "百", "十", "")
_HAN_GROUPS = ("", "万", "亿")


def english_cardinal(value: int) -> str:
    """105 is "one hundred five"; words separated by single spaces. value: 0 to 10**15 - 1, else ValueError."""
    if not 0 <= value < 10**15:
        raise ValueError(f"{value} is not between 0 and 10**15 - 1")
    if value < 20:
        return _ONES[value]
    if value < 100:
        tens, rest = divmod(value, 10)
        return _TENS[tens - 2] + (f" {_ONES[rest]}" if rest else "")
    scale, name = next((scale, name) for scale, name in _SCALES if value >= scale)
    count, rest = divmod(value, scale)
    return f"{english_cardinal(count)} {name}" + (f" {english_cardinal(rest)}" if rest else "")


def english_ordinal(value: int) -> str:
    """21 is "twenty first". Bounds as in `english_cardinal`."""
    head, _, last = english_cardinal(value).rpartition(" ")
    regular = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return f"{head} {_ORDINALS.get(last, regular)}".strip()


def english_year(value: int) -> str:
    """1984 is "nineteen eighty four", 1905 "nineteen oh five", 1900 "nineteen hundred". value: four digits."""
    century, rest = divmod(value, 100)
    if rest == 0:
        return f"{english_cardinal(century)} hundred"
    return f"{english_cardinal(century)} {'oh ' if rest < 10 else ''}{english_cardinal(rest)}"


def chinese_digits(digits: str) -> str:
    """Digit by digit, as years and telephone numbers are read: "2024" is 二零二四."""
    return "".join(_HAN_DIGITS[int(digit)] for digit in digits)


def chinese_cardinal(value: int) -> str:
    """10500 is 一万零五百, 12 is 十二. value: 0 to 10**12 - 1, else ValueError."""
    if not 0 <= value < 10**12:
        raise ValueError(f"{value} is not between 0 and 10**12 - 1")
    if value == 0:
        return _HAN_DIGITS[0]
    said, missing = "", False  # missing: a place was skipped since the last digit said
    for group in reversed(range(3)):
        part = value // 10 ** (4 * group) % 10_000
        for place, digit in enumerate(f"{part:04d}"):
            if digit == "0":
                missing = bool(said)
                continue
            said += (_HAN_DIGITS[0] if missing else "") + _HAN_DIGITS[int(digit)] + _HAN_PLACES[place]
            missing = False
        said += _HAN_GROUPS[group] if part else ""
    return said[1:] if said.startswith("一十") else said

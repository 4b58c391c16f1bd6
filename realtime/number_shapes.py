"""What becomes of a number, an amount, a date or a symbol that was found: words, each at the piece of text it is said for.

Knows which words go with which piece, so that no edit covers white space. Does not know how shapes are found (`realtime.expansion`).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from realtime.tongue import MOST_DIGITS, Currency, Tongue

_BOTTOMS: Final = frozenset({2, 3, 4, 5, 6, 8, 10, 16})  # "9/11" and "24/7" are no fractions
HALVES: Final = {
    "½": (1, 2),
    "¼": (1, 4),
    "¾": (3, 4),
    "⅓": (1, 3),
    "⅔": (2, 3),
    "⅛": (1, 8),
    "⅜": (3, 8),
    "⅝": (5, 8),
    "⅞": (7, 8),
}


class Edit(NamedTuple):
    """Other words for a stretch of text."""

    start: int
    end: int
    words: str


def _at(match: re.Match[str], group: str, words: str) -> Edit:
    return Edit(match.start(group), match.end(group), words)


def address(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    said = {".": tongue.dot, "@": tongue.at, "_": tongue.underline, "-": tongue.dash, "+": tongue.symbols["+"]}
    pieces = re.findall(r"\d+|[^\W\d_]+|.", match[0])
    words = (said.get(piece, tongue.number(piece) if piece.isdecimal() else piece) for piece in pieces)
    return [Edit(*match.span(), " ".join(words))]


def full_date(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    day, month = int(match["day"]), int(match["month"])
    if month > 12 and day <= 12 and "/" in match[0]:
        day, month = month, day
    if not (1 <= day <= 31 and 1 <= month <= 12) or any(char.isspace() for char in match[0]):
        return None
    year = int(match["year"]) if match["year"] else None
    words = tongue.date(day, month, year, match.string[: match.start()])
    return [Edit(*match.span(), words)]


def day(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    day = int(match["day"])
    if not 1 <= day <= 31:
        return None
    dotted = match.string[match.end("day") : match.end("day") + 1] == "." and tongue.code == "de"
    words = tongue.day(day, match.string[: match.start("day")])
    found = [Edit(match.start("day"), match.end("day") + dotted, words)]
    if match.groupdict().get("year"):
        found.append(_at(match, "year", tongue.year(int(match["year"]))))
    return found


def day_first(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    """5 March: the fifth of March."""
    if not 1 <= int(match["day"]) <= 31:
        return None
    before, behind = match.string[: match.start()], match.string[match.end() :]
    article = "" if re.search(r"\bthe\s*\Z", before, re.IGNORECASE) else "the "
    link = "" if re.match(r"\s*of\b", behind) else " of"
    return [_at(match, "day", article + tongue.ordinal(int(match["day"])) + link)]


def clock(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    """A time of day, "10:30" or "9 a.m."; None: it is none."""
    groups = match.groupdict()
    minute = int(groups["minute"] or 0)
    second = groups.get("second")
    hour_words, behind = tongue.clock(int(match["hour"]), minute, None if second is None else int(second))
    suffix = match["suffix"] or ""
    start, end = match.start("hour"), match.end() - len(suffix)
    if suffix.strip() == "Uhr":
        if tongue.code != "de":
            return None
        return [Edit(start, end, hour_words), Edit(match.end() - 3, match.end(), behind)]
    if suffix and not minute and second is None:
        hour_words = tongue.number(str(int(match["hour"])))
    words = f"{hour_words} {behind}".rstrip()
    return [Edit(start, end, words)]


def hour(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    return [_at(match, "hour", tongue.number(match["hour"]))]


def _spoken_minus(match: re.Match[str], tongue: Tongue) -> str:
    return f"{tongue.minus} " if match["minus"] else ""


def _amount(match: re.Match[str], tongue: Tongue, currency: Currency) -> tuple[str, str]:
    """The words of an amount, and what of them belongs to a sign that stands apart behind it."""
    whole, part = match["whole"], match["part"]
    if currency.part is None or part is None or len(part) != 2:
        said, noun = tongue.counted(currency.unit, whole, part)
        return said, noun
    cents, cent = tongue.counted(currency.part, str(int(part)), None)
    if not int(part):
        return tongue.counted(currency.unit, whole, None)
    if not any(char in "123456789" for char in whole):
        return cents, cent
    said, noun = tongue.counted(currency.unit, whole, None)
    small = f"{tongue.money_and}{cents}" + (f" {cent}" if tongue.money_and else "")
    return f"{said} {noun}", small


def _scaled(match: re.Match[str], tongue: Tongue) -> tuple[str, str]:
    scale = tongue.scales[match["scale"]]
    return tongue.counted(scale, match["whole"], match["part"])


def money_sign_first(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    """An amount behind its sign, "$3.99" or "$2 million"; None: the sign is the end of a word."""
    currency = tongue.currencies[match["sign"]]
    if match["sign"].isalpha() and re.search(r"\w\Z", match.string[: match.start("sign")]):
        return None
    start = match.start("minus") if match["minus"] else match.start("sign")
    if match["scale"]:
        number, scale = _scaled(match, tongue)
        words = [number, f"{scale} {currency.unit.many}"]
        apart = bool(match["gap"])
        end = match.end("part") if match["part"] else match.end("whole")
        spans = [(start, end), match.span("scale")]
    else:
        words, spans, apart = [" ".join(_amount(match, tongue, currency))], [(start, match.end())], False
    if match["lead"]:  # the sign is a word of its own, of which nothing is left
        gone = Edit(start, match.end("sign"), "")
        spans[0] = (match.start("whole"), spans[0][1])
    else:
        gone = None
    words[0] = _spoken_minus(match, tongue) + words[0]
    found = [Edit(a, b, said) for (a, b), said in zip(spans, words, strict=True)]
    if len(found) == 2 and not apart:
        found = [Edit(found[0].start, found[1].end, f"{found[0].words} {found[1].words}")]
    return ([gone] if gone else []) + found


def money_sign_last(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    """An amount before its sign, "3,99 €" or "2 Millionen €"."""
    currency = tongue.currencies[match["sign"]]
    start = match.start("minus") if match["minus"] else match.start("whole")
    end = match.end("part") if match["part"] else match.end("whole")
    if match["scale"]:
        number, scale = _scaled(match, tongue)
        pieces = [(start, end, number), (*match.span("scale"), scale), (*match.span("sign"), currency.unit.many)]
    else:
        number, noun = _amount(match, tongue, currency)
        pieces = [(start, end, number), (*match.span("sign"), noun)]
    first, last, words = pieces[0]
    pieces[0] = (first, last, _spoken_minus(match, tongue) + words)
    return [Edit(*piece) for piece in pieces]


def measure(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    number, noun = tongue.counted(tongue.units[match["unit"]], match["whole"], match["part"])
    if match["between"] == "-":
        noun = tongue.units[match["unit"]].one
    start = match.start("minus") if match["minus"] else match.start("whole")
    end = match.start("unit") if match["between"] == "-" else match.end("part") if match["part"] else match.end("whole")
    return [Edit(start, end, _spoken_minus(match, tongue) + number), _at(match, "unit", noun)]


def telephone(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    """Groups of digits, one by one, with a short stop between the groups."""
    groups = [found for found in re.finditer(r"\d+", match[0])]
    lengths = [len(found[0]) for found in groups]
    marked = match["plus"] or "(" in match[0] or groups[0][0].startswith("0")
    thousands = not marked and all(length == 3 for length in lengths[1:])
    years = lengths == [4, 4] and all(1000 <= int(found[0]) < 2200 for found in groups)
    if not 7 <= sum(lengths) <= 16 or thousands or years or not (marked or lengths[-1] == 4):
        return None
    found = []
    for index, group in enumerate(groups):
        start = match.start() + group.start()
        end = match.start() + (groups[index + 1].start() if index + 1 < len(groups) else len(match[0]))
        tail = match.string[match.start() + group.end() : end]
        first = match.start() if index == 0 else start
        last = match.start() + group.end() + len(tail.rstrip(" \u00a0("))
        plus = tongue.symbols["+"] + " " if index == 0 and match["plus"] else ""
        comma = "," if index + 1 < len(groups) else ""
        if index and match.string[start - 1] == "(":
            first = start - 1
        found.append(Edit(first, last, plus + tongue.digits(group[0]) + comma + (" " if comma and last == end else "")))
    return found


def version(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    point = tongue.dot if tongue.code == "de" else tongue.point
    digits = match[0].lstrip("vV")
    if tongue.group == r"\." and re.fullmatch(r"\d{1,3}(?:\.\d{3})+", match[0]):
        return None
    said = f" {point} ".join(tongue.number(piece) for piece in digits.split("."))
    return [Edit(match.end() - len(digits), match.end(), said)]


def fraction(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    top, bottom = int(match["top"]), int(match["bottom"])
    if not 1 <= top < bottom or bottom not in _BOTTOMS or match["top"][0] == "0":
        return None
    return [Edit(*match.span(), tongue.fraction(top, bottom))]


def half(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    said = tongue.fraction(*HALVES[match["half"]])
    if not match["whole"]:
        return [_at(match, "half", said)]
    link = tongue.symbols["&"]
    return [_at(match, "whole", tongue.number(match["whole"])), _at(match, "half", f"{link} {said}")]


def decade(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    value = int(match["decade"])
    words = tongue.year(value) if value >= 100 else tongue.cardinal(value)
    if tongue.code == "de":
        return [Edit(*match.span(), f"{words}er{match['ending']}")]
    return [Edit(*match.span(), words[:-1] + "ies" if words.endswith("y") else words + "s")]


def ordinal(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    digits = match["ordinal"].replace(",", "")
    if len(digits) > MOST_DIGITS or not int(digits):
        return None
    words = tongue.day(int(digits), match.string[: match.start("ordinal")])
    dotted = tongue.code == "de"
    return [Edit(match.start("ordinal"), match.end("ordinal") + dotted if dotted else match.end(), words)]


def range_between(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    start, end = match.start() + len(match["before"]), match.end() - len(match["after"])
    return [Edit(start, end, f" {tongue.to} ")]


def ratio(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    return [_at(match, "ratio", f" {tongue.against} ")]


def mark(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    """A mark between digits that the language does not have there."""
    return [
        _at(match, "mark", ", " if match["mark"] == "," else f" {tongue.dot if tongue.code == 'de' else tongue.point} ")
    ]


def by(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    return [Edit(*match.span(), f" {tongue.by} ")]


def per(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    return [Edit(*match.span(), f" {tongue.per} ")]


def feet(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    """6'2": six foot two."""
    if tongue.code != "en" or int(match["inches"]) > 11:
        return None
    return [Edit(*match.span(), f" foot {tongue.number(match['inches'])}")]


def year(match: re.Match[str], tongue: Tongue) -> list[Edit] | None:
    start, end = match.span("year")
    return [Edit(start, end, tongue.year(int(match["year"])))] if tongue.years(match.string, start, end) else None


def times(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    return [Edit(*match.span(), f" {tongue.symbols['×']}")]


def number_sign(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    return [Edit(*match.span(), f"{tongue.symbols['№']} ")]


def about(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    return [Edit(*match.span(), f"{tongue.symbols['≈']} ")]


def plain(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    before, behind = match.string[: match.start("whole")], match.string[match.end() :]
    if match["thousand"]:
        said = " ".join(tongue.counted(tongue.scales["k"], match["whole"], match["part"]))
    elif tongue.code == "de" and match["part"] is None and match["whole"] == "1" and _counts(before, behind):
        said = tongue.one
    else:
        said = tongue.number(match["whole"], match["part"])
    start = match.start("minus") if match["minus"] else match.start("whole")
    return [Edit(start, match.end(), _spoken_minus(match, tongue) + said)]


def _counts(before: str, behind: str) -> bool:
    """Whether a German one counts what follows ("1 Apfel") and does not number what stands before it ("Kapitel 1 Teil")."""
    return re.match(r"[ \u00a0][^\W\d]", behind) is not None and re.search(r"[A-ZÄÖÜ]\w*[ \u00a0]*\Z", before) is None


def blank(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    return [Edit(*match.span(), " ")]


def nothing(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    return [Edit(*match.span(), "")]


def symbol(match: re.Match[str], tongue: Tongue) -> list[Edit]:
    before, after = match.string[: match.start()][-1:], match.string[match.end() :][:1]
    left, right = " " if before and not before.isspace() else "", " " if after and after.isalnum() else ""
    return [Edit(*match.span(), left + tongue.symbols[match[0]] + right)]

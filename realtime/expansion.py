"""Numbers, dates, times, money, units and symbols in words, for a checkpoint that must get them so.

Knows the shapes in which they are written. The words are a `Tongue`'s. Does not know segments or deltas: it gets the text of one whole
segment and never looks beyond it. Every edit stays within one word of the text, so that words keep their times.

Rules are tried in order; what one of them took is not looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from realtime import number_shapes as shapes
from realtime.english import ENGLISH
from realtime.german import GERMAN
from realtime.number_shapes import Edit
from realtime.tongue import Tongue

TONGUES: Final = {tongue.code: tongue for tongue in (ENGLISH, GERMAN)}

Finder = Callable[[re.Match[str], Tongue], list[Edit] | None]  # None: it is not what it looked like


class Rule(NamedTuple):
    """What to look for, and what becomes of it."""

    pattern: re.Pattern[str]
    edits: Finder


def edits(text: str, tongue: Tongue, taken: Sequence[Edit] = ()) -> list[Edit]:
    """What becomes of the numbers and symbols of a text, in no order; nothing that `taken` covers, but those are in it."""
    found = [*taken]
    claimed = bytearray(len(text))  # 1 where a rule has been
    for edit in taken:
        claimed[edit.start : edit.end] = b"\1" * (edit.end - edit.start)
    for rule in _rules(tongue.code):
        for match in _unclaimed(rule.pattern, text, claimed):
            made = rule.edits(match, tongue)
            if made is not None:
                found += (part for edit in made for part in _within_words(text, edit))
                claimed[match.start() : match.end()] = b"\1" * (match.end() - match.start())
    return found


def _unclaimed(pattern: re.Pattern[str], text: str, claimed: bytearray) -> Iterator[re.Match[str]]:
    """Matches that hold nothing claimed, also between two stretches that are."""
    at = 0
    while match := pattern.search(text, at):
        at = match.start()
        if claimed.find(1, at, match.end()) < 0:
            yield match
            at = max(match.end(), at + 1)
            continue
        end = claimed.find(1, at)  # of what is free here; as far as that goes, it may be one
        shorter = pattern.match(text, at, end) if at < end else None
        if shorter is not None:
            yield shorter
            at = max(shorter.end(), at + 1)
        else:
            at += 1


def _within_words(text: str, edit: Edit) -> Iterator[Edit]:
    """The edit with its words at the first of several words, where a thin space groups digits: the others are silent."""
    words = edit.words
    for piece in re.finditer(r"\S+", text[edit.start : edit.end]):
        yield Edit(edit.start + piece.start(), edit.start + piece.end(), words)
        words = ""


def applied(text: str, changes: Sequence[Edit]) -> Iterator[tuple[int, int, str]]:
    """The edits in order, with a space where their words would touch others."""
    ordered = sorted(changes)
    for index, edit in enumerate(ordered):
        before, after = text[edit.start - 1 : edit.start], text[edit.end : edit.end + 1]
        words = edit.words
        if index and ordered[index - 1].end == edit.start and ordered[index - 1].words:
            before = " " if ordered[index - 1].words[-1].isspace() else "x"
        words = words.lstrip() if before.isspace() else words
        words = words.rstrip() if after.isspace() else words
        if words[:1].isalnum() and before.isalnum():
            words = " " + words
        if (
            words[-1:].isalnum()
            and after.isalnum()
            and not (index + 1 < len(ordered) and ordered[index + 1].start == edit.end)
        ):
            words += " "
        yield edit.start, edit.end, words


_G: Final = "[ \u00a0\u202f]"  # a gap inside what belongs together
_MINUS: Final = r"(?P<minus>(?<![\w)\].])[-−])?"  # and no hyphen
_FREE: Final = r"(?<![\w.,])"  # nothing that could be more of the number stands in front of it
_DOMAINS: Final = "com|org|net|de|io|ai|dev|edu|gov|info|uk|eu|at|ch|fr|app|co|me|tv|fm|us|biz"


def _number(tongue: Tongue) -> str:
    """A pattern for a number: groups `whole` and `part`."""
    grouped = rf"\d{{1,3}}(?:{tongue.group}\d{{3}})+(?!\d)|\d{{1,3}}(?:[\u00a0\u202f'’]\d{{3}})+(?!\d)"
    return rf"(?P<whole>{grouped}|\d+)(?:{tongue.decimal}(?P<part>\d+)(?!\d|{tongue.decimal}\d))?"


def _any_of(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))


@lru_cache(maxsize=8)
def _rules(code: str) -> tuple[Rule, ...]:
    """The rules of a language, what is more special first."""
    tongue = TONGUES[code]
    number, units = _number(tongue), _any_of(tongue.units)
    signs = _any_of(tongue.currencies)
    scale = rf"(?:(?P<gap>{_G}?)(?P<scale>{_any_of(tongue.scales)})(?![\w]))?"
    months = _any_of(sorted(tongue.months))
    suffix = rf"(?P<suffix>{_G}?(?:[ap]\.?m\b|Uhr\b))?"
    found: list[tuple[str, Finder]] = [
        (r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", shapes.address),
        (rf"(?<![\w@])(?:[\w-]+\.)+(?:{_DOMAINS})\b(?!\.\w)", shapes.address),
        (rf"{_FREE}(?P<year>[12]\d{{3}})-(?P<month>\d\d)-(?P<day>\d\d)(?![\w-])", shapes.full_date),
        *_dates(code, months),
        *_ordinals(code),
        (
            rf"{_FREE}(?P<hour>[01]?\d|2[0-4]):(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d))?(?![\d:]){suffix}",
            shapes.clock,
        ),
        (rf"{_FREE}(?P<hour>[01]?\d|2[0-4])(?:\.(?P<minute>[0-5]\d))?(?=[ \u00a0]Uhr\b){suffix}", shapes.clock),
        (rf"{_FREE}(?P<hour>1?\d)(?=[ap]m\b)", shapes.hour),
        (rf"{_MINUS}(?P<sign>{signs})(?P<lead>{_G}?){number}{scale}", shapes.money_sign_first),
        (rf"{_FREE}{_MINUS}{number}{scale}(?P<between>{_G}?)(?P<sign>{signs})(?![\w])", shapes.money_sign_last),
        (rf"{_FREE}{_MINUS}{number}(?P<between>{_G}|-)?(?P<unit>{units})(?![\w²³/])", shapes.measure),
        (
            r"(?<![\w.])(?P<plus>\+)?(?=[\d(])\(?\d{1,5}\)?(?:[ \u00a0/-]{1,2}\(?\d{2,9}\)?){1,5}(?![\w]|[-.,/]\d)",
            shapes.telephone,
        ),
        (r"(?<![\w.])[vV]?\d+(?:\.\d+){2,}(?![\w])", shapes.version),
        (r"(?<![\w./])(?P<top>\d{1,2})/(?P<bottom>\d{1,2})(?![\w./]*\d)", shapes.fraction),
        (rf"(?P<whole>\d+)?{_G}?(?P<half>[{''.join(shapes.HALVES)}])", shapes.half),
        (r"(?<=\d)(?P<before>[ \u00a0]?)[-–—](?P<after>[ \u00a0]?)(?=[$€£]?\d)", shapes.range_between),
        (r"(?<=[ap]m)(?P<before>)[-–—](?P<after>)(?=\d)", shapes.range_between),
        (r"(?<=\d)['’′](?P<inches>\d{1,2})(?:\"|″|''|(?![\w]))", shapes.feet),
        (r"(?<=\d)[x×](?=\d)", shapes.by),
        (r"(?<=\d[ \u00a0])[xX](?=[ \u00a0]\d)", shapes.times),
        (r"(?<![\w.,])(?<!\D-)(?P<year>[12]\d{3})(?![\w]|[.,]\d)", shapes.year),
        (r"(?<=\d)[xX](?![\w])", shapes.times),
        (r"#(?=[ \u00a0]?\d)", shapes.number_sign),
        (r"[~≈](?=[ \u00a0]?[$€£]?\d)", shapes.about),
        (rf"{_MINUS}{number}(?P<thousand>k(?![\w]))?", shapes.plain),
        (r"(?<=\d)(?P<ratio>:)(?=\d)", shapes.ratio),
        (r"(?:(?<=\d)|(?<![\w.]))(?P<mark>[.,])(?=\d)", shapes.mark),
        (r"(?<=[\d$€£%])/(?=[^\W\d])", shapes.per),
        (r"(?<=\w)_(?=\w)|[/\\~{}]", shapes.blank),
        (r"[©®™]", shapes.nothing),
        (rf"[{re.escape(''.join(tongue.symbols))}]", shapes.symbol),
    ]
    return tuple(Rule(re.compile(pattern), finder) for pattern, finder in found)


def _dates(code: str, months: str) -> list[tuple[str, Finder]]:
    year = r"(?P<year>[12]\d{3})(?!\d)"
    if code == "de":
        return [
            (rf"{_FREE}(?P<day>[0-3]?\d)\.{_G}?(?P<month>[01]?\d)\.{_G}?(?:{year}|(?=[\s,;)]|$))", shapes.full_date),
            (rf"{_FREE}(?P<day>[0-3]?\d)\.(?={_G}(?i:{months})\b)", shapes.day),
        ]
    return [
        (rf"{_FREE}(?P<month>[01]?\d)/(?P<day>[0-3]?\d)/{year}", shapes.full_date),
        (rf"{_FREE}(?P<day>[0-3]?\d)\.(?P<month>[01]?\d)\.{year}", shapes.full_date),
        (rf"(?i:\b(?:{months})\b)\.?{_G}(?P<day>[0-3]?\d)(?![\w:]|[.,/]\d|{_G}?%)(?:,?{_G}{year})?", shapes.day),
        (rf"{_FREE}(?P<day>[0-3]?\d)(?={_G}(?:of{_G})?(?:{months.title()})\b)", shapes.day_first),
    ]


def _ordinals(code: str) -> list[tuple[str, Finder]]:
    if code == "de":
        # "im 3. Stock": an ordinal only behind an article or a preposition and in front of a word; "Kapitel 3. Danach" is none.
        led = r"\b(?:am|im|vom|zum|beim|dem|den|des|der|die|das|ein|eine|einen|einem|jede[rsnm]?|diese[rsnm]?)"
        return [
            (r"(?<!\d)(?P<decade>(?:1[1-9]|20)?\d0)er(?P<ending>n?)(?![\w])", shapes.decade),
            (rf"(?i:{led}) (?P<ordinal>\d{{1,3}})\.(?= [^\W\d])", shapes.ordinal),
            (r"(?P<ordinal>\d{1,3})\.(?=-)", shapes.ordinal),
        ]
    return [
        (r"(?<![\w.,])(?P<decade>(?:1[1-9]|20)\d0)['’]?s(?![\w])", shapes.decade),
        (
            r"(?:(?<=['’])|(?<=\bthe )|(?<=early )|(?<=late )|(?<=mid[ -]))(?P<decade>[2-9]0)['’]?s(?![\w])",
            shapes.decade,
        ),
        (r"(?<![\w.,])(?P<ordinal>\d{1,3}(?:,\d{3})*|\d+)(?:st|nd|rd|th)(?![\w])", shapes.ordinal),
    ]

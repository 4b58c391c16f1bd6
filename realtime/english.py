"""English for `realtime.expansion`, as it is said in the United States.

Knows words and when four digits are a year. Does not know how numbers are found.
"""

from __future__ import annotations

import re
from typing import Final

from num2words import num2words

from realtime.tongue import Currency, Noun, Tongue

_MONTHS: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
# In front of these four digits are a year; so are those of the last two centuries unless they count something.
_YEAR_CUES = re.compile(
    r"\b(?:in|since|by|from|until|till|to|of|year|years|after|before|around|circa|early|late|mid|during|between|and|spring|summer|autumn|"
    r"fall|winter|christmas|copyright|©|\w+ary|march|april|may|june|july|august|\w+ber)[ \u00a0,(]*$",
    re.IGNORECASE,
)
_COUNTED = re.compile(r"[ \u00a0](?:people|men|women|children|times|\w+[^s\W]s)\b(?!')")
_YEAR_VERBS = re.compile(r"[ \u00a0](?:is|was|has|this|as|does|its|his|sees|brings|plus|versus|towards|always)\b")


def _is_year(text: str, start: int, end: int) -> bool:
    value = int(text[start:end])
    if not 1100 <= value < 2100:
        return False
    counted = _COUNTED.match(text, end) and not _YEAR_VERBS.match(text, end)
    return not counted and (value >= 1900 or _YEAR_CUES.search(text, 0, start) is not None)


def _words(value: int) -> str:
    return str(num2words(value, lang="en")).replace(",", "")


def _clock(hour: int, minute: int, second: int | None) -> tuple[str, str]:
    said = _words(hour)
    if minute:
        said += f" {'oh ' if minute < 10 else ''}{_words(minute)}"
    elif second is None and hour > 12:
        said += " hundred"
    if second is not None:
        said += f"{'' if minute else ' hundred'} and {_words(second)} second{'' if second == 1 else 's'}"
    return said, ""


def _day(day: int, before: str) -> str:
    return str(num2words(day, lang="en", to="ordinal"))


def _date(day: int, month: int, year: int | None, before: str) -> str:
    said = f"{_MONTHS[month - 1]} {_day(day, before)}"
    return said if year is None else f"{said} {num2words(year, lang='en', to='year')}"


def _fraction(top: int, bottom: int) -> str:
    name = {2: "half", 4: "quarter"}.get(bottom) or str(num2words(bottom, lang="en", to="ordinal"))
    if top != 1:
        name = "halves" if bottom == 2 else name + "s"
    return f"{_words(top)} {name}"


def _unit(one: str, many: str | None = None) -> Noun:
    return Noun(one, one + "s" if many is None else many)


_UNITS: Final = {
    "km": _unit("kilometer"),
    "m": _unit("meter"),
    "dm": _unit("decimeter"),
    "cm": _unit("centimeter"),
    "mm": _unit("millimeter"),
    "µm": _unit("micrometer"),
    "nm": _unit("nanometer"),
    "mi": _unit("mile"),
    "yd": _unit("yard"),
    "ft": _unit("foot", "feet"),
    "km²": _unit("square kilometer"),
    "m²": _unit("square meter"),
    "cm²": _unit("square centimeter"),
    "m³": _unit("cubic meter"),
    "cm³": _unit("cubic centimeter"),
    "ha": _unit("hectare"),
    "kg": _unit("kilogram"),
    "g": _unit("gram"),
    "mg": _unit("milligram"),
    "µg": _unit("microgram"),
    "t": _unit("ton"),
    "lb": _unit("pound"),
    "lbs": _unit("pound"),
    "oz": _unit("ounce"),
    "l": _unit("liter"),
    "L": _unit("liter"),
    "dl": _unit("deciliter"),
    "cl": _unit("centiliter"),
    "ml": _unit("milliliter"),
    "mL": _unit("milliliter"),
    "gal": _unit("gallon"),
    "km/h": _unit("kilometer per hour", "kilometers per hour"),
    "kph": _unit("kilometer per hour", "kilometers per hour"),
    "mph": _unit("mile per hour", "miles per hour"),
    "m/s": _unit("meter per second", "meters per second"),
    "°": _unit("degree"),
    "°C": _unit("degree Celsius", "degrees Celsius"),
    "°F": _unit("degree Fahrenheit", "degrees Fahrenheit"),
    "℃": _unit("degree Celsius", "degrees Celsius"),
    "h": _unit("hour"),
    "hr": _unit("hour"),
    "hrs": _unit("hour"),
    "min": _unit("minute"),
    "mins": _unit("minute"),
    "s": _unit("second"),
    "sec": _unit("second"),
    "secs": _unit("second"),
    "ms": _unit("millisecond"),
    "µs": _unit("microsecond"),
    "B": _unit("byte"),
    "kB": _unit("kilobyte"),
    "KB": _unit("kilobyte"),
    "MB": _unit("megabyte"),
    "GB": _unit("gigabyte"),
    "TB": _unit("terabyte"),
    "PB": _unit("petabyte"),
    "KiB": _unit("kibibyte"),
    "MiB": _unit("mebibyte"),
    "GiB": _unit("gibibyte"),
    "kbps": _unit("kilobit per second", "kilobits per second"),
    "Mbps": _unit("megabit per second", "megabits per second"),
    "Gbps": _unit("gigabit per second", "gigabits per second"),
    "fps": _unit("frame per second", "frames per second"),
    "Hz": _unit("hertz", "hertz"),
    "kHz": _unit("kilohertz", "kilohertz"),
    "MHz": _unit("megahertz", "megahertz"),
    "GHz": _unit("gigahertz", "gigahertz"),
    "W": _unit("watt"),
    "kW": _unit("kilowatt"),
    "MW": _unit("megawatt"),
    "GW": _unit("gigawatt"),
    "Wh": _unit("watt hour"),
    "kWh": _unit("kilowatt hour"),
    "V": _unit("volt"),
    "mA": _unit("milliampere"),
    "mAh": _unit("milliampere hour"),
    "J": _unit("joule"),
    "kJ": _unit("kilojoule"),
    "kcal": _unit("kilocalorie"),
    "Pa": _unit("pascal"),
    "hPa": _unit("hectopascal"),
    "dB": _unit("decibel"),
    "px": _unit("pixel"),
    "%": _unit("percent", "percent"),
    "‰": _unit("per mille", "per mille"),
}
_DOLLAR: Final = Currency(_unit("dollar"), _unit("cent"))
_EURO: Final = Currency(_unit("euro"), _unit("cent"))
_POUND: Final = Currency(_unit("pound"), Noun("penny", "pence"))
_YEN: Final = Currency(_unit("yen", "yen"), None)
_FRANC: Final = Currency(Noun("Swiss franc", "Swiss francs"), Noun("centime", "centimes"))
_RUPEE: Final = Currency(_unit("rupee"), Noun("paisa", "paise"))

ENGLISH: Final = Tongue(
    code="en",
    group=",",
    decimal=r"\.",
    point="point",
    minus="minus",
    to="to",
    per="per",
    against="to",
    by="by",
    at="at",
    dot="dot",
    underline="underscore",
    dash="dash",
    one="one",
    years=_is_year,
    clock=_clock,
    day=_day,
    date=_date,
    money_and="and ",
    months={name.casefold(): at for at, name in enumerate(_MONTHS, 1)}
    | {name[:3].casefold(): at for at, name in enumerate(_MONTHS, 1)}
    | {"sept": 9},
    units=_UNITS,
    currencies={
        "$": _DOLLAR, "US$": _DOLLAR, "USD": _DOLLAR, "€": _EURO, "EUR": _EURO, "£": _POUND, "GBP": _POUND, "¥": _YEN, "JPY": _YEN,
        "CHF": _FRANC, "₹": _RUPEE, "INR": _RUPEE,
    },
    scales={
        "hundred": _unit("hundred", "hundred"), "thousand": _unit("thousand", "thousand"), "million": _unit("million", "million"),
        "billion": _unit("billion", "billion"), "trillion": _unit("trillion", "trillion"), "k": _unit("thousand", "thousand"),
        "K": _unit("thousand", "thousand"), "M": _unit("million", "million"), "m": _unit("million", "million"),
        "mn": _unit("million", "million"), "B": _unit("billion", "billion"), "bn": _unit("billion", "billion"),
        "T": _unit("trillion", "trillion"), "tn": _unit("trillion", "trillion"),
    },
    symbols={
        "&": "and", "+": "plus", "=": "equals", "@": "at", "§": "section", "°": "degrees", "×": "times", "÷": "divided by",
        "±": "plus or minus", "<": "less than", ">": "greater than", "≤": "at most", "≥": "at least", "≠": "is not", "≈": "about",
        "%": "percent", "‰": "per mille", "$": "dollars", "€": "euros", "£": "pounds", "¥": "yen", "²": "squared", "³": "cubed",
        "№": "number", "^": "to the power of", "√": "square root of", "∞": "infinity", "µ": "micro",
    },
    fraction=_fraction,
)  # fmt: skip

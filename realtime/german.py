"""German for `realtime.expansion`.

Knows words, their gender where the number one asks for it, and when four digits are a year. Does not know how numbers are found.
"""

from __future__ import annotations

import re
from typing import Final

from num2words import num2words

from realtime.tongue import Currency, Noun, Tongue

_MONTHS: Final = (
    "Januar",
    "Februar",
    "März",
    "April",
    "Mai",
    "Juni",
    "Juli",
    "August",
    "September",
    "Oktober",
    "November",
    "Dezember",
)
# A noun is in capitals: "1950 Menschen" counts, "1950 wurde" does not.
_COUNTED = re.compile(r"[ \u00a0][A-ZÄÖÜ]")
_YEAR_CUES = re.compile(
    r"\b(?:Jahr|Jahre|Jahres|Jahren|seit|bis|von|ab|vor|nach|um|zwischen|und|anno|Sommer|Winter|Frühjahr|Herbst|Ende|Anfang|Mitte|©|"
    r"Januar|Februar|März|April|Mai|Juni|Juli|August|\w+ber)[ \u00a0,(]*$"
)
# The ending of an ordinal follows the article or preposition in front of it.
_WITH_N = re.compile(
    r"\b(?:am|im|vom|zum|beim|dem|den|des|ab|bis|seit|einem|einen|zur|ins|jedem|jeden|diesem|diesen|letzten)[ \u00a0]+$",
    re.IGNORECASE,
)
_WITH_E = re.compile(r"\b(?:der|die|das|eine|diese|jede|dieser|jeder)[ \u00a0]+$", re.IGNORECASE)


def _is_year(text: str, start: int, end: int) -> bool:
    value = int(text[start:end])
    if not 1100 <= value < 2100 or _COUNTED.match(text, end):
        return False
    return value >= 1900 or _YEAR_CUES.search(text, 0, start) is not None


def _words(value: int) -> str:
    return str(num2words(value, lang="de"))


def _hour(hour: int) -> str:
    return "ein" if hour == 1 else _words(hour)


def _clock(hour: int, minute: int, second: int | None) -> tuple[str, str]:
    rest = _words(minute) if minute or second is not None else ""
    if second is not None:
        rest += f" und {'eine' if second == 1 else _words(second)} Sekunde{'' if second == 1 else 'n'}"
    return _hour(hour), f"Uhr {rest}".rstrip()


def ordinal(value: int, before: str) -> str:
    """With the ending that what stands before it asks for."""
    said = str(num2words(value, lang="de", to="ordinal"))
    if _WITH_N.search(before):
        return said + "n"
    return said if _WITH_E.search(before) else said + "r"


def _date(day: int, month: int, year: int | None, before: str) -> str:
    said = f"{ordinal(day, before)} {_MONTHS[month - 1]}"
    return said if year is None else f"{said} {num2words(year, lang='de', to='year')}"


def _fraction(top: int, bottom: int) -> str:
    if bottom == 2:
        return f"{'ein' if top == 1 else _words(top)} {'halb' if top == 1 else 'halbe'}"
    name = str(num2words(bottom, lang="de", to="ordinal")) + "l"
    return f"{'ein' if top == 1 else _words(top)} {name[0].upper()}{name[1:]}"


def _same(name: str, article: str = "ein") -> Noun:
    """A unit without a plural of its own."""
    return Noun(name, name, article)


def _feminine(one: str, many: str) -> Noun:
    return Noun(one, many, "eine")


_UNITS: Final = {
    "km": _same("Kilometer"),
    "m": _same("Meter"),
    "dm": _same("Dezimeter"),
    "cm": _same("Zentimeter"),
    "mm": _same("Millimeter"),
    "µm": _same("Mikrometer"),
    "nm": _same("Nanometer"),
    "km²": _same("Quadratkilometer"),
    "m²": _same("Quadratmeter"),
    "qm": _same("Quadratmeter"),
    "cm²": _same("Quadratzentimeter"),
    "m³": _same("Kubikmeter"),
    "cm³": _same("Kubikzentimeter"),
    "ha": _same("Hektar"),
    "kg": _same("Kilogramm"),
    "g": _same("Gramm"),
    "mg": _same("Milligramm"),
    "µg": _same("Mikrogramm"),
    "t": _feminine("Tonne", "Tonnen"),
    "l": _same("Liter"),
    "L": _same("Liter"),
    "dl": _same("Deziliter"),
    "cl": _same("Zentiliter"),
    "ml": _same("Milliliter"),
    "km/h": _same("Kilometer pro Stunde"),
    "m/s": _same("Meter pro Sekunde"),
    "°": _same("Grad"),
    "°C": _same("Grad Celsius"),
    "°F": _same("Grad Fahrenheit"),
    "℃": _same("Grad Celsius"),
    "h": _feminine("Stunde", "Stunden"),
    "Std.": _feminine("Stunde", "Stunden"),
    "min": _feminine("Minute", "Minuten"),
    "Min.": _feminine("Minute", "Minuten"),
    "s": _feminine("Sekunde", "Sekunden"),
    "Sek.": _feminine("Sekunde", "Sekunden"),
    "ms": _feminine("Millisekunde", "Millisekunden"),
    "B": _same("Byte"),
    "kB": _same("Kilobyte"),
    "KB": _same("Kilobyte"),
    "MB": _same("Megabyte"),
    "GB": _same("Gigabyte"),
    "TB": _same("Terabyte"),
    "MiB": _same("Mebibyte"),
    "GiB": _same("Gibibyte"),
    "Mbit/s": _same("Megabit pro Sekunde"),
    "Gbit/s": _same("Gigabit pro Sekunde"),
    "Hz": _same("Hertz"),
    "kHz": _same("Kilohertz"),
    "MHz": _same("Megahertz"),
    "GHz": _same("Gigahertz"),
    "W": _same("Watt"),
    "kW": _same("Kilowatt"),
    "MW": _same("Megawatt"),
    "GW": _same("Gigawatt"),
    "Wh": _feminine("Wattstunde", "Wattstunden"),
    "kWh": _feminine("Kilowattstunde", "Kilowattstunden"),
    "PS": _same("P S"),
    "V": _same("Volt"),
    "mA": _same("Milliampere"),
    "J": _same("Joule"),
    "kJ": _same("Kilojoule"),
    "kcal": _feminine("Kilokalorie", "Kilokalorien"),
    "Pa": _same("Pascal"),
    "hPa": _same("Hektopascal"),
    "dB": _same("Dezibel"),
    "px": _same("Pixel"),
    "%": _same("Prozent"),
    "‰": _same("Promille"),
}
_MILLION: Final = _feminine("Million", "Millionen")
_BILLION: Final = _feminine("Milliarde", "Milliarden")
_LARGE: Final = {
    "Million": _MILLION,
    "Millionen": _MILLION,
    "Mio.": _MILLION,
    "Mio": _MILLION,
    "Milliarde": _BILLION,
    "Milliarden": _BILLION,
    "Mrd.": _BILLION,
    "Mrd": _BILLION,
}
_CENT: Final = _same("Cent")
_EURO: Final = Currency(_same("Euro"), _CENT)
_DOLLAR: Final = Currency(_same("Dollar"), _CENT)
_POUND: Final = Currency(_same("Pfund"), Noun("Penny", "Pence", "ein"))
_FRANC: Final = Currency(_same("Franken"), _same("Rappen"))
_YEN: Final = Currency(_same("Yen"), None)

GERMAN: Final = Tongue(
    code="de",
    group=r"\.",
    decimal=",",
    point="Komma",
    minus="minus",
    to="bis",
    per="pro",
    against="zu",
    by="mal",
    at="ät",
    dot="Punkt",
    underline="Unterstrich",
    dash="Bindestrich",
    one="ein",
    years=_is_year,
    clock=_clock,
    day=ordinal,
    date=_date,
    money_and="",
    months={name.casefold(): at for at, name in enumerate(_MONTHS, 1)} | {"jänner": 1},
    units=_UNITS | _LARGE,
    currencies={
        "€": _EURO, "EUR": _EURO, "$": _DOLLAR, "US$": _DOLLAR, "USD": _DOLLAR, "£": _POUND, "GBP": _POUND, "CHF": _FRANC, "Fr.": _FRANC,
        "¥": _YEN, "JPY": _YEN,
    },
    scales=_LARGE
    | {
        "Tsd.": _same("Tausend"), "Tausend": _same("Tausend"),
        "Billion": _feminine("Billion", "Billionen"), "Billionen": _feminine("Billion", "Billionen"), "k": _same("Tausend"),
    },
    symbols={
        "&": "und", "+": "plus", "=": "gleich", "@": "ät", "§": "Paragraf", "°": "Grad", "×": "mal", "÷": "geteilt durch",
        "±": "plus minus", "<": "kleiner als", ">": "größer als", "≤": "höchstens", "≥": "mindestens", "≠": "ungleich", "≈": "etwa",
        "%": "Prozent", "‰": "Promille", "$": "Dollar", "€": "Euro", "£": "Pfund", "¥": "Yen", "²": "Quadrat", "³": "hoch drei",
        "№": "Nummer", "^": "hoch", "√": "Wurzel aus", "∞": "unendlich", "µ": "Mikro",
    },
    fraction=_fraction,
)  # fmt: skip

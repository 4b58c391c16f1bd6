"""Which script a letter belongs to, against what Unicode's names of characters say."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from realtime.scripts import SCRIPTS, script_of

# What the names of some characters say instead of their script's name.
_NAMED = {
    "Han": ("CJK", "IDEOGRAPH", "OLD CHINESE"),
    "Hiragana": ("HENTAIGANA", "VERTICAL KANA", "MASU MARK"),
    "Latin": ("MODIFIER LETTER", "ORDINAL INDICATOR", "KELVIN", "ANGSTROM", "TURNED", "ROMAN NUMERAL"),
    "Greek": ("MODIFIER LETTER", "OHM SIGN"),
    "Devanagari": ("VEDIC",),
    "Egyptian Hieroglyphs": ("EGYPTIAN HIEROGLYPH ",),
    "Anatolian Hieroglyphs": ("ANATOLIAN HIEROGLYPH ",),
    "Meroitic Hieroglyphs": ("MEROITIC HIEROGLYPHIC",),
    "Canadian Aboriginal": ("CANADIAN SYLLABICS",),
}
# Letters without a script, by how their names begin: mathematics, phonetic modifiers, one Cyrillic tilde.
_SHARED = (
    *(
        "MATHEMATICAL",
        "MODIFIER LETTER",
        "DOUBLE STRUCK",
        "SCRIPT",
        "BLACK LETTER",
        "PLANCK",
        "EULER",
        "MICRO",
        "CARON",
    ),
    *("ALEF SYMBOL", "BET SYMBOL", "GIMEL SYMBOL", "DALET SYMBOL", "INFORMATION SOURCE", "VERTICAL TILDE"),
)


def test_every_letter_has_the_script_that_its_name_says() -> None:
    wrong = []
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        name = unicodedata.name(char, "").replace("-", " ")
        if unicodedata.category(char)[0] != "L" or not name:
            continue
        script = script_of(char)
        told = _SHARED if script is None else (script.upper(), *_NAMED.get(script, ()))
        if not (name.startswith(told) if script is None else any(word in name for word in told)):
            wrong.append((hex(code), name, script))
    assert wrong == []


@pytest.mark.parametrize(
    ("script", "letters"),
    [
        ("Latin", "aZéßøłŻđếȘıŋÆﬁＡｚªKⅣ"),
        ("Cyrillic", "яЩёїӘ"),
        ("Greek", "αΩς\u1f00\u2126"),
        ("Arabic", "سكپێ\u0640\u064eﷺ"),
        ("Hebrew", "שםﬡ"),
        ("Devanagari", "कीॐ"),
        ("Bengali", "কা"),
        ("Tamil", "தி"),
        ("Thai", "กำๆ"),
        ("Han", "漢字々〇㐀𠀀豈"),
        ("Hiragana", "かっゞ\u3099"),
        ("Katakana", "カーｶｰﾞㇰ"),
        ("Hangul", "한ㄱᄀﾡ"),
        ("Armenian", "հՖ"),
        ("Georgian", "ქჯ"),
        ("Ethiopic", "አማ"),
        ("Myanmar", "မြ"),
        ("Khmer", "ខ្"),
        ("Tibetan", "བོ"),
        ("Cherokee", "ᎣᏏ"),
    ],
)
def test_letters_and_marks_of_a_script_are_in_it(script: str, letters: str) -> None:
    assert {script_of(char) for char in letters} == {script}
    assert script in SCRIPTS


@pytest.mark.parametrize(
    "char", [*"0٣३3️⃣.,!?。、،؟।-–«»() \n\t", *"😀👩🏽❤€$%+=°©²½①", "\u200d", "\u200c", "\ufe0f", "𝐇", "µ"]
)
def test_digits_punctuation_symbols_and_emoji_belong_to_all_scripts(char: str) -> None:
    assert script_of(char) is None


@pytest.mark.parametrize("mark", ["\u0301", "\u0308", "\u1dc4", "\u20dd"])
def test_a_mark_for_letters_of_any_script_has_none(mark: str) -> None:
    assert script_of(mark) is None


def test_what_is_not_assigned_has_no_script() -> None:
    assert script_of("\u0378") is None
    assert script_of("\ue000") is None

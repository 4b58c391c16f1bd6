"""What of a text is left out for a checkpoint that reads some scripts alone, and how the rest closes up."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime.characters import facts
from realtime.repertoire import EVERYTHING, Repertoire, Unread
from tests.realtime.texts import texts

LATIN = Repertoire(["Latin"])
FOREIGN = "Привет мир Ελλάδα العربية עברית हिन्दी 東京タワーひらがな 한국어 ภาษาไทย Հայերեն ქართული አማርኛ"

mixed = st.lists(
    st.one_of(
        st.sampled_from([*"aZé5 .,!?-'\"()«» ", "Go ", "и", "Жук", "東", "か", "\u0301", "م", "\u200c", "क्षि"]), texts
    )
).map("".join)


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hello Привет, world", "Hello, world"),
        ("Hello. Привет. Bye.", "Hello. Bye."),
        ("Привет! Hello", "Hello"),
        ("Hello, Привет.", "Hello."),
        ("She said: Привет.", "She said."),
        ("Москва-City", "City"),
        ("in Москва-City now", "in City now"),
        ("City-Москва", "City"),
        ("Москва's metro", "metro"),
        ("I said «Привет», and left", "I said, and left"),
        ('Say "Привет" now', "Say now"),
        ("“Привет.” Hi", "Hi"),
        ("(см. page 3)", "(page 3)"),
        ("(Hello Привет) now", "(Hello) now"),
        ("Hello — Привет — world", "Hello — world"),
        ("«Привет», сказал он, and left", "and left"),
        ("$5 или €6", "$5 €6"),
        ("5-й этаж", "5"),
        ("Hello日本world", "Hello world"),
        ("東京タワーへGo!", "Go!"),
        ("مرحبا، كيف الحال؟ fine", "fine"),
        ("می\u200cخواهم go", "go"),
        ("हिन्दी में text।", "text."),
        ("क्षि e\u0301te\u0301", "été"),
        ("Привет 😀 world", "😀 world"),
    ],
)
def test_other_words_are_left_out_and_the_rest_closes_up(text: str, spoken: str) -> None:
    assert LATIN.spoken(text).strip() == spoken


@pytest.mark.parametrize("word", FOREIGN.split())
def test_nothing_is_left_of_a_word_in_another_script(word: str) -> None:
    assert not LATIN.sounds(word)
    assert LATIN.spoken(f"{word}!") == ""
    assert LATIN.spoken(f"Hello {word} there.") == "Hello there."


@pytest.mark.parametrize(
    "text",
    [
        "Zażółć gęślą jaźń.",
        "Tiếng Việt",
        "Þórr, Øresund, œuvre",
        "naïve café",
        "5 µm, 20 °C, 1º, ½ m²",
        "😀 👩🏽‍🚀 ❤️ → €5 + 3 = 8%",
    ],
)
def test_letters_of_the_script_and_what_all_scripts_share_stay_as_they_are(text: str) -> None:
    assert LATIN.spoken(text) == text
    assert LATIN.unread(text) == []


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("٣ apples, ۴۵ pears, १२ figs, ๗ plums", "3 apples, 45 pears, 12 figs, 7 plums"),
        ("Ｈｅｌｌｏ　ｗｏｒｌｄ１２！", "Hello world12!"),
        ("𝐇𝐞𝐥𝐥𝐨 𝟛 ﬁne", "Hello 3 fine"),
        ("Henry Ⅳ", "Henry IV"),
        ("Hello。World，yes？No", "Hello. World, yes? No"),
        ("cafe\u0301", "café"),
        ("［pause］ ＜｜speaker:1｜＞", "［pause］ ＜｜speaker:1｜＞"),  # these must not become what they look like
    ],
)
def test_what_looks_like_a_letter_a_digit_or_a_mark_becomes_one(text: str, spoken: str) -> None:
    assert LATIN.spoken(text) == spoken
    assert LATIN.unread(text) == []


def test_a_stretch_has_its_place_and_runs_over_what_stands_between_its_words() -> None:
    assert LATIN.unread("Hi, Привет, мир! Yes") == [Unread("Cyrillic", 4, 15)]
    assert LATIN.unread("Hi мир", start=100) == [Unread("Cyrillic", 103, 106)]


def test_what_is_heard_between_two_stretches_parts_them() -> None:
    assert LATIN.unread("мир a мир") == [Unread("Cyrillic", 0, 3), Unread("Cyrillic", 6, 9)]
    assert LATIN.unread("мир 5 мир") == [Unread("Cyrillic", 0, 3), Unread("Cyrillic", 6, 9)]


def test_each_script_is_a_stretch_of_its_own() -> None:
    assert LATIN.unread("東京タワーへ") == [Unread("Han", 0, 2), Unread("Katakana", 2, 5), Unread("Hiragana", 5, 6)]


def test_several_scripts_may_be_read() -> None:
    both = Repertoire(["Latin", "Cyrillic"])
    assert both.spoken("Hello Привет 東京, мир") == "Hello Привет, мир"
    assert both.unread("Hello Привет 東京") == [Unread("Han", 13, 15)]


@given(mixed)
def test_without_declared_scripts_every_text_stays_as_it_is(text: str) -> None:
    assert EVERYTHING.spoken(text) == EVERYTHING.kept(text) == text
    assert EVERYTHING.unread(text) == []


@given(mixed)
def test_the_engine_gets_letters_of_its_scripts_alone_and_all_of_them(text: str) -> None:
    spoken = LATIN.spoken(text)
    assert LATIN.reads_all(spoken)
    kept = [char for char in unicodedata.normalize("NFKC", LATIN.kept(text)).casefold() if facts(char).speakable]
    left = [char for char in unicodedata.normalize("NFKC", spoken).casefold() if facts(char).speakable]
    assert left == kept or "'s" in text or "’s" in text


@given(mixed)
def test_stretches_are_in_order_and_hold_every_letter_that_is_not_read(text: str) -> None:
    stretches = LATIN.unread(text)
    at = 0
    for stretch in stretches:
        assert at <= stretch.start < stretch.end
        assert not LATIN.sounds(text[stretch.start : stretch.end])
        assert LATIN.reads_all(text[at : stretch.start])
        at = stretch.end
    assert LATIN.reads_all(text[at:])


@pytest.mark.parametrize("scripts", [["latin"], ["Latin", "Klingon"], []])
def test_a_script_that_does_not_exist_is_refused(scripts: list[str]) -> None:
    with pytest.raises(ValueError, match="names of Unicode"):
        Repertoire(scripts)

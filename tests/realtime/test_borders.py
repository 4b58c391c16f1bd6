"""How good a border is at each position of a text."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given

from protocol.config import TagMode
from realtime.borders import Border, BorderScanner, Level
from realtime.characters import UNITS_PER_WORD
from realtime.tags import Lexer, Text
from tests.realtime.texts import Atom, atoms, spans, texts


def borders(text: str, sounds: bool = True) -> list[Border]:
    lexer, scanner = Lexer(TagMode.PERFORM), BorderScanner(sounds)
    return [border for token in lexer.feed(text) + lexer.finish() for border in scanner.scan(token)]


def cut(text: str, level: Level) -> str:
    """The text with | at each border of at least this level."""
    ends = [border.pos for border in borders(text) if border.level >= level]
    return "|".join(text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "So it is. |Then we go.",
        "Really? |Yes! |No.",
        '"Come in." |She came.',
        "He left (at last). |Good.",
        "**Done.** |Next",
        "What?! |No",
        "Wait... |Now",
        "Line one\n|line two\r\n|line three",
        "It is 1984. |Then",
        "So do I. |Then",
        "Hello. |[laugh] That is funny.",
        "Hello.|[laugh] That",
        "今天很好。|我们走吧！|好",
        "「好。」|她说",
        "Done。|「次」",
        "你好!|世界",
        "नमस्ते। |आप कैसे हैं",
        "كيف حالك؟ |أنا",
        "شكرا۔|اردو",
        "សួស្តី។|អ្នក",
        "Oh no. |That was it",
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str) -> None:
    assert cut(text.replace("|", ""), Level.SENTENCE) == text


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith and Mrs. Jones met Prof. Wu",
        "i.e. Paris, e.g. London, z.B. Berlin",
        "the U.S. Senate at 5 p.m. Eastern",
        "J. R. R. Tolkien",
        "1. First",
        "am 3. Oktober",
        "No. 5 and Fig. 12 of Jan. 7",
        "version 3.14 of example.com",
        "it was... odd",
        "100. The hundredth item",
        "well…maybe",
        "好……我们",
        "Yahoo! is",
    ],
)
def test_abbreviations_initials_and_numbers_end_no_sentence(text: str) -> None:
    assert cut(text, Level.SENTENCE) == text


@pytest.mark.parametrize(
    "text",
    [
        "first, |second; |third: |fourth",
        "one — |two—|three – |four - |five",
        "well…|maybe",
        "well... |maybe",
        "不过，|好的、|是",
        "مرحبا، |كيف؛ |نعم",
        "สวัสดี |ครับ",
        "1,000,000 and 10:30 and 1,5",
        "1939–1945",
        "１，０００円",
        "well-known -5",
        "http://a.b/c,d:e;f",
    ],
)
def test_clauses_end_at_their_marks(text: str) -> None:
    assert cut(text.replace("|", ""), Level.CLAUSE) == text


@pytest.mark.parametrize(
    "text",
    [
        "to |be |or |not",
        "a\u200b|b",
        "Comment |ça |va",
        "vraiment ? |Oui",
        "call |555 0199 now",
        "10\u00a0km",
        "- item",
        "un|[pause]believable",
        "[sad] he |came",
        "これは|漢字と|カタカナ",
        "ไป|เที่ยว|ไหน",
    ],
)
def test_words_end_at_spaces_and_where_a_script_shows_it(text: str) -> None:
    assert cut(text.replace("|", ""), Level.WORD) == text


def test_scripts_without_spaces_have_syllables_but_no_cut_inside_one() -> None:
    assert cut("我很好", Level.SYLLABLE) == "我|很|好"
    assert cut("きゃー々", Level.SYLLABLE) == "きゃー々"
    assert cut("นำไปที่", Level.SYLLABLE) == "นำ|ไป|ที่"
    assert cut("GPT模型3号", Level.SYLLABLE) == "GPT|模|型|3|号"


def test_paragraphs_and_another_speaker_are_the_best_borders() -> None:
    assert cut("a\n\nb\r\n\r\nc\nd\r\ne", Level.PARAGRAPH) == "a\n\n|b\r\n\r\n|c\nd\r\ne"
    assert (
        cut("<|speaker:0|>a <|speaker:0|>b <|speaker:1|>c", Level.PARAGRAPH)
        == "<|speaker:0|>a <|speaker:0|>b |<|speaker:1|>c"
    )


def test_a_tag_stays_with_what_follows_it() -> None:
    assert cut("so [laugh] [sad] <|speaker:1|> well", Level.WORD) == "so |[laugh] [sad] |<|speaker:1|> well"


@given(atoms)
def test_no_border_falls_inside_a_number_an_address_a_grapheme_or_a_tag(text_atoms: list[Atom]) -> None:
    text = "".join(atom.text for atom in text_atoms)
    inner = {pos for start, end, atom in spans(text_atoms) if atom.solid for pos in range(start + 1, end)}
    hangul = {pos for pos in inner if "가" <= text[pos] <= "힣"}  # a word, like the Latin ones, checked with them
    assert not [border for border in borders(text) if border.pos in inner | hangul and border.level > Level.GRAPHEME]


def test_a_pile_of_marks_is_cut_at_last() -> None:
    levels = [border.level for border in borders("a" + "\u0301" * 100)]
    assert levels.count(Level.INSIDE) == 32
    assert set(levels[33:]) == {Level.GRAPHEME}


def test_words_are_counted_in_every_script() -> None:
    for text, words in (
        ("one two-three, 3.14 don't", 4),
        ("你好世界", 2),
        ("word—word", 2),
        ("[laugh] hi", 1),
        ("... -", 0),
        ("สวัสดี", 1),
    ):
        scanner = BorderScanner(sounds=True)
        lexer = Lexer(TagMode.PERFORM)
        for token in lexer.feed(text) + lexer.finish():
            scanner.scan(token)
        assert scanner.here(Level.WORD).words == words * UNITS_PER_WORD, text


def test_a_sound_can_be_heard_unless_tags_are_stripped() -> None:
    for sounds in (True, False):
        scanner = BorderScanner(sounds)
        for token in Lexer(TagMode.PERFORM).feed("[laugh]"):
            scanner.scan(token)
        assert scanner.here(Level.WORD).speakable == sounds
        assert (scanner.dangling is None) == sounds


@pytest.mark.parametrize(
    ("text", "ended"),
    [
        ("Hello ", True),
        ("Hello.", True),
        ("Hello", False),
        ("costs 3.", False),
        ("costs 1,", False),
        ("Dr.", False),
        ("see a.b.", False),
        ("你好", True),
        ("ไปเ", False),
        ("", True),
        ("Hi [sad]", True),
        ('"Yes!"', True),
    ],
)
def test_the_end_of_the_text_may_or_may_not_be_the_end_of_a_word(text: str, ended: bool) -> None:
    scanner = BorderScanner(sounds=True)
    for token in Lexer(TagMode.PERFORM).feed(text):
        scanner.scan(token)
    assert scanner.ends_word is ended


@given(texts)
def test_there_is_one_border_for_each_character_and_each_tag_and_counts_only_grow(text: str) -> None:
    found = borders(text)
    lexer = Lexer(TagMode.PERFORM)
    tokens = lexer.feed(text) + lexer.finish()
    expected = [token.start + i for token in tokens for i in range(len(token.raw) if isinstance(token, Text) else 1)]
    assert [border.pos for border in found] == expected
    for left, right in pairwise(found):
        assert (left.weight, left.words, left.speakable) <= (right.weight, right.words, right.speakable)

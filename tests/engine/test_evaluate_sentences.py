"""The sentences that the evaluation speaks: enough of them, varied, pronounceable by the teacher, and never used in training."""

from __future__ import annotations

import ast
import ctypes.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from engine.train import text_de, text_en
from engine.train.grammar import Rule

ROOT = Path(__file__).parents[2]
FILES = {language: ROOT / "engine" / "evaluate" / f"sentences_{language}.txt" for language in ("en", "de")}
RULES = {"en": text_en.RULES, "de": text_de.RULES}
VOICES = {"en": "en-us", "de": "de"}
# What the teacher reports beside sounds: a palatalising link and a short break between words.
NO_SOUNDS = {";", "_|"}


def sentences(language: str) -> list[str]:
    return FILES[language].read_text(encoding="utf-8").splitlines()


def compared(text: str) -> str:
    """Without case and punctuation: a sentence that differs only in these is the same sentence."""
    return " ".join(re.findall(r"\w+", text.lower()))


@pytest.mark.parametrize(("language", "count"), [("en", 200), ("de", 60)])
def test_there_are_as_many_sentences_as_the_figures_say(language: str, count: int) -> None:
    assert len(sentences(language)) == count


@pytest.mark.parametrize("language", FILES)
def test_a_sentence_has_5_to_20_words_and_ends_like_one(language: str) -> None:
    for text in sentences(language):
        assert 5 <= len(text.split(" ")) <= 20, text
        assert text == text.strip() and text[-1] in ".?!", text


@pytest.mark.parametrize("language", FILES)
def test_no_sentence_is_said_twice(language: str) -> None:
    said = [compared(text) for text in sentences(language)]
    assert len(set(said)) == len(said)


@pytest.mark.parametrize("language", FILES)
def test_nothing_in_a_sentence_reads_as_a_tag(language: str) -> None:
    assert not [text for text in sentences(language) if re.search(r"[\[\]<>|]", text)]


@pytest.mark.parametrize(
    ("what", "pattern", "least"),
    [
        ("questions", r"\?$", 30),
        ("exclamations", r"!$", 12),
        ("contractions", r"\w'(s|t|m|d|re|ve|ll)\b", 50),
        ("digits", r"\d", 44),
        ("decimals", r"\d\.\d", 4),
        ("thousands", r"\d,\d{3}", 3),
        ("percentages", r"\d%|percent", 3),
        ("prices", r"[$£]\d|\d (euros|dollars)", 8),
        ("times of day", r"\d:\d\d|\b[ap]\.m\.|o'clock|half past|quarter past|midnight", 8),
        ("years", r"\b(1[5-9]|20)\d\d\b", 5),
        ("days of the month", r"\b\d+(st|nd|rd|th)\b|(January|March|April) \d", 4),
        ("titles", r"\b(Dr|Mrs|Mr|Ms)\. |Professor ", 5),
        ("abbreviations with dots", r"\b(U\.S\.|p\.m\.|a\.m\.|St\.|vs\.|etc\.|e\.g\.)", 6),
        ("letters read one by one or as a word", r"\b[A-Z]{2,}\b", 5),
        ("names within the sentence", r"[a-z,] [A-Z][a-z]+", 40),
        ("commas", r",", 70),
        ("quotations", r'"', 3),
    ],
)
def test_the_english_sentences_have(what: str, pattern: str, least: int) -> None:
    assert sum(1 for text in sentences("en") if re.search(pattern, text)) >= least, what


@pytest.mark.parametrize(
    ("what", "pattern", "least"),
    [
        ("questions", r"\?$", 9),
        ("exclamations", r"!$", 5),
        ("umlauts and sharp s", r"[äöüÄÖÜß]", 30),
        ("digits", r"\d", 15),
        ("decimals", r"\d,\d", 2),
        ("dates", r"\b\d+\. (Mai|Juni)", 2),
        ("times of day", r"\d Uhr|halb sieben|Viertel nach", 4),
        ("abbreviations", r"\b(Dr\.|usw\.|d\. h\.)", 3),
    ],
)
def test_the_german_sentences_have(what: str, pattern: str, least: int) -> None:
    assert sum(1 for text in sentences("de") if re.search(pattern, text)) >= least, what


@pytest.mark.parametrize("language", FILES)
def test_the_teacher_says_each_with_sounds_that_the_recogniser_knows(language: str) -> None:
    if ctypes.util.find_library("espeak-ng") is None:
        pytest.skip("needs the system package espeak-ng")
    from engine.train.phones import phone_class, phone_sequence
    from engine.train.teacher import Teacher, Tone

    teacher = Teacher()
    for text in sentences(language):
        phones = teacher.speak(text, VOICES[language], Tone("", 175, 50, 50, 100)).phones
        assert {name for name, _ in phones if phone_class(name) is None} <= NO_SOUNDS, text
        assert len(phone_sequence(phones)) >= 2 * len(text.split(" ")), text


def trained_texts() -> list[str]:
    """Every string that the training code holds, the lists of its check included."""
    strings = []
    for path in sorted((ROOT / "engine" / "train").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                strings.append(compared(node.value))
    return strings


@pytest.mark.parametrize("language", FILES)
def test_no_sentence_stands_in_the_training_code(language: str) -> None:
    held = set(trained_texts())
    assert compared("The birch canoe slid on the smooth planks.") in held
    assert not [text for text in sentences(language) if compared(text) in held]


def producible(text: str, rules: dict[str, Rule]) -> bool:
    """Whether the templates give `text` with the words and numbers of their own lists.

    What draws from the vocabulary gives any single word; such a template counts as producing nothing, or every sentence would be found.
    """

    @cache
    def ends(template: str, start: int) -> frozenset[int]:
        """Where an expansion of `template` that begins at `start` may end."""
        symbol = re.search(r"\{(\w+)\}", template)
        if symbol is None:
            return frozenset({start + len(template)} if lowered.startswith(template.lower(), start) else ())
        head, tail = template[: symbol.start()], template[symbol.end() :]
        return frozenset(
            end
            for middle in ends(head, start)
            for rest in of_symbol(symbol.group(1), middle)
            for end in ends(tail, rest)
        )

    @cache
    def of_symbol(name: str, start: int) -> frozenset[int]:
        rule = rules.get(name)
        if rule is None or name in ("odd", "cap"):
            return frozenset()
        if callable(rule):
            return frozenset(numbers(text, start))
        return frozenset(end for production in rule for end in ends(production, start))

    lowered = text.lower()
    return len(text) in of_symbol("sentence", 0)


NUMBER_WORD = re.compile(
    r"[$£]?\d[\d.,:]*(st|nd|rd|th|%)?|[A-Z](?:[-. ]?[A-Z])*|am|pm|o'clock|half|past|the|of|halb|Uhr|"
    r"(January|February|March|April|May|June|July|August|September|October|November|December),?|Mai|Juni|"
    r"miles|meters|kilometers|pounds|kilos|degrees|percent|inches|feet|liters|seconds|people|times|dollars|euros|cents"
)


def numbers(text: str, start: int) -> Iterator[int]:
    """Ends of what may be a number, date, time, sum or spelt word at `start`: up to four words of such things, more than are made."""
    for _ in range(4):
        word = re.match(r"[^ ]+?(?=[.,;:?!)]*( |$))", text[start:])
        if word is None or not NUMBER_WORD.fullmatch(word.group()):
            return
        yield start + word.end()
        if text[start + word.end() : start + word.end() + 1] == ",":  # "March 3, 1999"
            start += 1
        start += word.end() + 1


@pytest.mark.parametrize(
    ("language", "text", "made"),
    [
        ("en", "How are you often?", True),
        ("en", "Well, I saw the old car, but she can't open the door.", True),
        ("en", "It costs $45.20 in Paris.", True),
        ("en", "March 3, 1999 was a good day.", True),
        ("en", "I saw the octopus.", False),
        ("de", "Guten Tag, wie spät ist es?", True),
        ("de", "Wie spät mag es sein?", False),
    ],
)
def test_a_sentence_of_the_templates_is_told_from_others(language: str, text: str, made: bool) -> None:
    assert producible(text, dict(RULES[language])) is made


@pytest.mark.parametrize("language", FILES)
def test_no_sentence_comes_out_of_the_training_templates(language: str) -> None:
    assert not [text for text in sentences(language) if producible(text, dict(RULES[language]))]

"""Numbers through the shipped mini: in words it says what a person would; the figures are printed (`pytest -s` shows them).

The yardstick is the teacher's reading of the words. Phoneme errors of the mini of 2026-11-21 on twenty such sentences: English 30.7 % when
it gets digits, 0.9 % when it gets words; German 34.4 % and 5.2 %.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import torch

from engine.api import SamplingParams
from engine.evaluate import measure
from engine.evaluate.listening import Ear
from engine.evaluate.speaking import NO_VOICE, Mouth, Request, Setting
from engine.evaluate.teaching import ENGLISH, GERMAN, Yardstick
from engine.resample import resample
from engine.train.recognizer import error_rate
from realtime.expansion import TONGUES, applied, edits
from tests.engine.evaluating import MINI, ROOT, teacher

MOST_ERRORS = 0.12
TEXTS = {
    "en": (
        "It costs $5.50 a day.",
        "We met on March 5, 2024 at noon.",
        "It grew by 3.5% in 1984.",
        "Call 555-1234 for help.",
        "He ran 10 km in 42 minutes.",
    ),
    "de": (
        "Das kostet 5,50 € am Tag.",
        "Der Zug fährt um 15:45 Uhr ab.",
        "Bitte auf Seite 217 lesen.",
        "Draußen sind es -5 °C heute.",
    ),
}
VOICES = {"en": ENGLISH, "de": GERMAN}

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def mouth() -> Iterator[Mouth]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with Mouth(Setting(MINI, "mini", "cpu", SamplingParams(), 0, 16)) as mouth:
        yield mouth
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def yardstick() -> Yardstick:
    return teacher()


def in_words(text: str, language: str) -> str:
    said, done = "", 0
    for start, end, words in applied(text, edits(text, TONGUES[language])):
        said, done = said + text[done:start] + words, end
    return re.sub(r"\s+", " ", said + text[done:])


@pytest.mark.parametrize("language", sorted(TEXTS))
def test_the_mini_says_numbers_as_people_do_when_it_gets_them_in_words(
    language: str, mouth: Mouth, yardstick: Yardstick
) -> None:
    assert mouth.info.numbers_in_words
    worded = [in_words(text, language) for text in TEXTS[language]]
    wanted = [yardstick.read(text, VOICES[language]).phones for text in worded]
    ear = Ear(ROOT / "engine" / "evaluate" / "recognizer.pt", torch.device("cpu"))
    rates = []
    for texts in (TEXTS[language], worded):
        spoken = mouth.speak([Request((text,), NO_VOICE, (), 0) for text in texts])
        clips = [resample(turn.samples, mouth.info.sample_rate, measure.RATE) for turn in spoken]
        rates.append(error_rate([heard.phones for heard in ear.hear(clips)], wanted))
    digits, words = rates
    print(f"{language}: {digits:.1%} of the phonemes are wrong with digits, {words:.1%} with words")
    assert words <= MOST_ERRORS
    assert words <= digits + 0.02

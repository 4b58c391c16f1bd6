"""The shipped mini, pinned: a fast subset of `python -m engine.evaluate mini`, so that no later change loses what it can do unnoticed.

Some sixty turns with one seed, through the engine that serves and the shipped recognisers. The bounds are those of the full
evaluation, loosened by what so few sentences may miss by chance. If one fails, run the full evaluation before touching a bound.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from engine.api import Reference, SamplingParams, SpokenSegment, Voice
from engine.evaluate import measure
from engine.evaluate.clarity import openings
from engine.evaluate.listening import Ear, has_last_word
from engine.evaluate.speaking import Mouth, Request, Setting
from engine.evaluate.styles import ACTS, HOLDS, STYLES, move
from engine.evaluate.teaching import GERMAN
from engine.evaluate.trial import QUICK, Take, Trial
from engine.evaluate.warp import Spectra, nearest
from engine.train.recognizer import error_rate
from engine.train.speaker_net import load_speaker_net
from engine.train.styles import SPEAKERS, Speaker, Style, free_form_tags
from engine.train.teacher import Tone
from tests.engine.evaluating import MINI, ROOT, teacher

EVALUATE = ROOT / "engine" / "evaluate"
TAGGED = 2  # sentences of each tag
MOVES = (Style.WHISPER, Style.SLOW, Style.FAST, Style.HIGH, Style.LOW, Style.LOUD, Style.SOFT)
WORDINGS = [(style, words) for style in STYLES for words in free_form_tags(style)[:1]]
STRANGERS = (
    Speaker(Tone("Annie", 150, 68, 45, 100)),
    Speaker(Tone("robosoft4", 185, 30, 55, 100)),
    Speaker(Tone("quincy", 160, 60, 50, 100)),
)


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    english, german = (
        (EVALUATE / f"sentences_{language}.txt").read_text(encoding="utf-8").splitlines() for language in ("en", "de")
    )
    ear, net = Ear(EVALUATE / "recognizer.pt", cpu), load_speaker_net(EVALUATE / "speaker.pt", cpu)
    with Mouth(Setting(MINI, "mini", "cpu", SamplingParams(), 0, 16)) as mouth:
        yield Trial(mouth, ear, net, teacher(), english, german, QUICK)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def texts(trial: Trial) -> list[str]:
    return [text for text in trial.some(40) if 35 <= len(text) <= 60][:8]


@pytest.fixture(scope="module")
def takes(trial: Trial, texts: list[str]) -> dict[str, list[Take]]:
    """All turns that need no other, spoken beside each other: sixteen at once cost little more than two."""
    asked = {
        "plain": texts,
        "german": trial.german[: QUICK.german],
        **{style.value: [f"[{style.value}] {text}" for text in texts[:TAGGED]] for style in MOVES},
        "wordings": [f"[{words}] {texts[0]}" for _, words in WORDINGS],
        "pause": ["The winner of this evening is [pause] number seven."],
        "no pause": ["The winner of this evening is number seven."],
        "unknown": [f"[as if reading a bedtime story] {texts[0]}"],
        "speakers": [f"<|speaker:{i}|>{text}" for i, text in enumerate(texts)],
    }
    spoken = iter(trial.say([text for group in asked.values() for text in group], "what needs no other turn"))
    return {name: [next(spoken) for _ in group] for name, group in asked.items()}


@pytest.fixture(scope="module")
def plain(takes: dict[str, list[Take]]) -> list[Take]:
    return takes["plain"]


def test_it_is_understood(trial: Trial, texts: list[str], plain: list[Take]) -> None:
    heard = trial.hear([take.samples for take in plain])
    assert error_rate([h.phones for h in heard], [trial.teacher.read(text).phones for text in texts]) < 0.07


def test_german_is_understood(trial: Trial, takes: dict[str, list[Take]]) -> None:
    texts = trial.german[: QUICK.german]
    heard = trial.hear([take.samples for take in takes["german"]])
    assert error_rate([h.phones for h in heard], [trial.teacher.read(text, GERMAN).phones for text in texts]) < 0.12


def test_the_right_sentence_is_nearest(trial: Trial, texts: list[str], plain: list[Take]) -> None:
    spectra = Spectra()
    candidates = [spectra(trial.teacher.say(text)) for text in trial.english]
    found = nearest([spectra(take.samples) for take in plain], candidates)
    assert [trial.english[i] for i in found] == texts


def test_every_turn_ends_where_its_text_does(trial: Trial, texts: list[str], plain: list[Take]) -> None:
    heard = trial.hear([take.samples for take in plain])
    assert all(has_last_word(h, trial.teacher.read(text)) for h, text in zip(heard, texts, strict=True))
    ratios = [len(take.samples) / len(trial.teacher.say(text)) for take, text in zip(plain, texts, strict=True)]
    assert min(ratios) > 0.6 and max(ratios) < 1.6
    assert all(take.spoken.cut is None for take in plain)


def test_an_opening_that_stops_in_mid_sentence_ends_there(trial: Trial) -> None:
    """What a server says first: three to twelve words, before it knows the rest of the sentence."""
    cuts = openings(trial.english, 10)
    takes = trial.turns([trial.request((text[:at], text[at:])) for text, at in cuts], "sentences cut in two")
    ratios = [
        len(take.part(0)) / len(trial.teacher.say(text[:at])) for take, (text, at) in zip(takes, cuts, strict=True)
    ]
    assert min(ratios) > 0.5 and max(ratios) < 1.8
    assert all(take.spoken.cut is None for take in takes)
    heard = trial.hear([take.samples for take in takes])
    assert error_rate([h.phones for h in heard], [trial.teacher.read(text).phones for text, _ in cuts]) < 0.07


@pytest.mark.parametrize("style", MOVES, ids=lambda style: style.value)
def test_a_tag_moves_its_quantity(trial: Trial, texts: list[str], takes: dict[str, list[Take]], style: Style) -> None:
    moves = [
        move(trial, style, text, tagged.samples, plain.samples)
        for text, tagged, plain in zip(texts, takes[style.value], takes["plain"], strict=False)
    ]
    assert len(moves) == TAGGED and min(moves) >= ACTS


def test_wordings_that_training_left_out_act_too(
    trial: Trial, texts: list[str], takes: dict[str, list[Take]], plain: list[Take]
) -> None:
    moves = [
        move(trial, style, texts[0], take.samples, plain[0].samples)
        for (style, _), take in zip(WORDINGS, takes["wordings"], strict=True)
    ]
    assert sum(moved >= ACTS for moved in moves) >= len(moves) - 1


def test_a_pause_is_generated_silence(trial: Trial, takes: dict[str, list[Take]]) -> None:
    (take,), (usual,) = takes["pause"], takes["no pause"]
    seconds = [measure.longest_pause(trial.sound(t.samples))[0] for t in (take, usual)]
    assert seconds[0] - seconds[1] > 0.25


def test_an_unknown_tag_is_not_read_out(takes: dict[str, list[Take]], plain: list[Take]) -> None:
    (take,) = takes["unknown"]
    assert len(take.samples) < 1.3 * len(plain[0].samples)


def test_the_eight_speakers_are_told_apart(trial: Trial, takes: dict[str, list[Take]]) -> None:
    found = trial.voices.speakers([take.samples for take in takes["speakers"]])
    assert sum(a == b for a, b in zip(found, range(8), strict=True)) >= 7


def test_clones_are_nearer_to_their_recording_than_to_the_eight(trial: Trial, texts: list[str]) -> None:
    said = " ".join(trial.some(3, 7))
    requests = []
    for i, stranger in enumerate(STRANGERS):
        codes = trial.mouth.encode(trial.teacher.say(said, stranger), measure.RATE)
        requests.append(trial.request((texts[i],), Voice(f"stranger-{i}", (Reference(said, codes),))))
    near = []
    for text, stranger, take in zip(texts, STRANGERS, trial.turns(requests, "clones"), strict=False):
        own = [trial.voice(trial.teacher.say(text, speaker)) for speaker in (stranger, *SPEAKERS)]
        near.append(int((np.stack(own) @ trial.voice(take.samples)).argmax()) == 0)
    assert sum(near) >= 2


@pytest.mark.parametrize("heard", [True, False], ids=["heard", "codes deleted"])
def test_an_untagged_second_turn_goes_on_as_the_first_was_heard(
    trial: Trial, texts: list[str], takes: dict[str, list[Take]], plain: list[Take], heard: bool
) -> None:
    styles = (Style.WHISPER, Style.SLOW)
    requests: list[Request] = []
    for style in styles:
        for text, after, take in zip(texts, texts[2:], takes[style.value], strict=False):
            codes = take.spoken.codes if heard else take.spoken.codes[:, :0]
            requests.append(trial.request((after,), history=(SpokenSegment(f"[{style.value}] {text}", codes),)))
    seconds = iter(trial.turns(requests, "second turns"))
    held = [
        move(trial, style, text, next(seconds).samples, usual.samples) >= HOLDS
        for style in styles
        for text, usual in zip(texts[2 : 2 + TAGGED], plain[2:], strict=False)
    ]
    assert sum(held) >= 3 if heard else not any(held)

"""Pitch, voicing, level, pace and silence, on signals whose properties are known and on the teacher's own speech."""

from __future__ import annotations

import numpy as np
import pytest

from engine.evaluate.measure import RATE, longest_pause, loudness, pace, semitones, sound, voicing
from engine.evaluate.styles import ACTS, STYLES, quantity
from engine.train.styles import SPEAKERS, Style
from tests.engine.evaluating import TEXTS, silence, teacher, tone


def hz(samples: np.ndarray) -> float:
    return float(2 ** (semitones(sound(samples)) / 12))


@pytest.mark.parametrize("pitch", [62, 110, 180, 300, 430])
def test_the_pitch_of_a_buzz_is_found_within_a_quarter_tone(pitch: float) -> None:
    assert hz(tone(pitch, 0.5)) == pytest.approx(pitch, rel=0.03)


def test_a_missing_fundamental_does_not_raise_the_pitch_an_octave() -> None:
    t = np.arange(RATE // 2) / RATE
    wave = sum(np.sin(2 * np.pi * 120 * n * t) for n in range(2, 8))
    assert hz((0.05 * wave).astype(np.float32)) == pytest.approx(120, rel=0.03)


def test_noise_has_no_voice_and_a_buzz_has_nothing_else() -> None:
    noise = np.random.default_rng(1).normal(0, 0.1, RATE).astype(np.float32)
    assert voicing(sound(noise)) < 0.05
    assert voicing(sound(tone(120, 1.0))) > 0.95


def test_loudness_is_the_level_of_what_sounds_whatever_the_silence_around() -> None:
    padded = np.concatenate([silence(1.0), tone(150, 1.0, -23.0), silence(2.0)])
    assert loudness(sound(padded)) == pytest.approx(-23.0, abs=0.5)


def test_pace_does_not_count_pauses() -> None:
    parts = [tone(150, 0.5), silence(0.8), tone(150, 0.5)]
    assert pace(sound(np.concatenate(parts))) == pytest.approx(0.0, abs=0.15)  # log2 of one second


def test_the_longest_pause_lies_inside_and_is_found_where_it_is() -> None:
    parts = [silence(2.0), tone(150, 0.5), silence(0.2), tone(150, 0.5), silence(0.6), tone(150, 0.5), silence(3.0)]
    seconds, at = longest_pause(sound(np.concatenate(parts)))
    assert seconds == pytest.approx(0.6, abs=0.06)
    assert at == pytest.approx(3.5, abs=0.05)


def test_a_part_is_measured_alone() -> None:
    whole = sound(np.concatenate([tone(100, 1.0), tone(200, 1.0)]))
    assert semitones(whole.part(1.1, 2.0)) - semitones(whole.part(0.0, 0.9)) == pytest.approx(12, abs=0.5)


@pytest.mark.parametrize(
    "samples", [silence(0.0), silence(0.01), silence(1.0)], ids=["nothing", "an instant", "silence"]
)
def test_silence_has_no_pitch_no_voice_and_no_pause(samples: np.ndarray) -> None:
    heard = sound(samples)
    assert (voicing(heard), semitones(heard), longest_pause(heard)[0]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.value)
@pytest.mark.parametrize("speaker", [0, 1], ids=["low voice", "high voice"])
def test_every_style_of_the_teacher_moves_its_quantity_and_by_a_like_amount(style: Style, speaker: int) -> None:
    voice = SPEAKERS[speaker]
    moves = [
        quantity(style, sound(teacher().say(text, voice, style))) - quantity(style, sound(teacher().say(text, voice)))
        for text in TEXTS
    ]
    assert min(moves) > 0
    assert min(moves) > 2 * ACTS * max(moves)  # so a third of one sentence's move is never reached by chance


@pytest.mark.parametrize(
    "style", [s for s in STYLES if s not in (Style.EXCITED, Style.SAD)], ids=lambda style: style.value
)
def test_a_styles_quantity_stays_where_it_is_under_the_styles_that_are_no_kin(style: Style) -> None:
    kin = {Style.WHISPER: {Style.SOFT, Style.LOUD}, Style.SOFT: {Style.WHISPER}, Style.LOUD: {Style.WHISPER}}
    mixed = {Style.EXCITED, Style.SAD, style, *kin.get(style, set())}
    opposite = {Style.SLOW: Style.FAST, Style.FAST: Style.SLOW, Style.HIGH: Style.LOW, Style.LOW: Style.HIGH}
    own = [quantity(style, sound(teacher().say(TEXTS[0], style=s))) for s in (style, Style.NORMAL)]
    for other in set(STYLES) - mixed - {opposite.get(style, style), Style.WHISPER}:
        moved = quantity(style, sound(teacher().say(TEXTS[0], style=other))) - own[1]
        assert moved < ACTS * (own[0] - own[1]), other

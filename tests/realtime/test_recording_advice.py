"""Every message, from a recording that has just that fault."""

from __future__ import annotations

import re

import numpy as np
import pytest

from realtime.recording import Array
from realtime.recording_advice import Advice, Problem
from realtime.recording_file import read
from tests.realtime.speechlike import RATE, TEXT, below, clean, file, in_room, with_music, with_noise

HISS = 1e-5 * np.random.default_rng(0).standard_normal(len(clean()))


def advice(
    sound: Array, rate: int = RATE, text: str = TEXT, kind: str = "WAV", subtype: str = "PCM_16"
) -> list[Advice]:
    return list(read(file(sound, rate, kind, subtype)).advice(text))


def two_channels(left: Array, right: Array) -> Array:
    return np.stack([left, right], axis=1)


def resampled(rate: int) -> Array:
    at = np.arange(0, len(clean()) - 1, RATE / rate)
    return np.interp(at, np.arange(len(clean())), below(clean(), rate * 0.45))


@pytest.mark.parametrize("seed", range(6))
def test_a_good_recording_is_left_alone(seed: int) -> None:
    assert advice(clean(12.0, seed)) == []


@pytest.mark.parametrize(
    ("sound", "options", "problem", "words"),
    [
        (clean(6.0), {"text": TEXT[:68]}, Problem.SHORT, "it is 6.0 s long, .* 10 to 30 s are best"),
        (clean(35.0), {"text": TEXT * 3}, Problem.LONG, "it is 35.0 s long, .* 10 to 30 s are best"),
        (resampled(22_050), {"rate": 22_050}, Problem.RATE, "22050 Hz, .* nothing above 11.025 kHz .* record at 44.1"),
        (clean(), {"kind": "MP3", "subtype": "MPEG_LAYER_III"}, Problem.LOSSY, r"a lossy file \(MP3\), .* use the original"),
        (clean(), {"kind": "OGG", "subtype": "VORBIS"}, Problem.LOSSY, r"a lossy file \(Ogg Vorbis\)"),
        (clean(), {"subtype": "ULAW"}, Problem.LOSSY, r"a lossy file \(mu-law\)"),
        (below(clean(), 16_000) + HISS, {}, Problem.EDGE, "above 16 kHz it holds nothing: .* use the original"),
        (below(clean(), 8_000) + HISS, {}, Problem.EDGE, "above 8 kHz it holds nothing"),
        (np.clip(clean() * 5, -1, 1), {}, Problem.CLIPPED, r"cut off level in \d+ places .* turned down"),
        (clean() * 2, {}, Problem.LOUD, r"peaks at -1.9 dB of full scale, above -3 dB, .* turn the input down"),
        (two_channels(clean(), -0.8 * clean()), {}, Problem.CANCELLED, "2 channels cancel each other .* one channel alone"),
        (with_noise(clean(), 20), {}, Problem.NOISE, r"only (19|20|21) dB below the speech, .* nearer to the microphone"),
        (with_music(clean(), 20), {}, Problem.TONES, "music, hum or another steady tone, .* record without it"),
        (in_room(clean(), 0.7), {}, Problem.ROOM, r"rings on .* reverberation time of about 0.[5-9] s; .* curtains"),
        (np.concatenate([HISS[: 2 * RATE], clean()]), {}, Problem.SILENCE, "begins with 2.2 s of silence, .* cut it"),
        (np.concatenate([clean(), HISS[: 2 * RATE]]), {}, Problem.SILENCE, r"ends with 2.\d s of silence"),
        (clean(), {"text": TEXT * 4}, Problem.TEXT_TOO_LONG, r"has \d\d characters for each of the \d.\d seconds"),
        (clean(), {"text": "The ferry leaves."}, Problem.TEXT_TOO_SHORT, r"has only 2 characters .* every word"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_cure_and_nothing_else_is(
    sound: Array, options: dict[str, object], problem: Problem, words: str
) -> None:
    (only,) = advice(sound, **options)  # type: ignore[arg-type]
    assert only.problem is problem
    assert re.search(words, only.text), only.text


def test_a_room_that_rings_from_word_to_word_is_a_room_and_no_noise() -> None:
    assert [one.problem for one in advice(in_room(clean(), 1.5))] == [Problem.ROOM]


def test_hum_is_a_tone() -> None:
    when = np.arange(len(clean())) / RATE
    hum = np.asarray(sum(np.sin(2 * np.pi * 50 * k * when + k) / k for k in (1, 2, 3, 4, 5, 7)))
    assert [one.problem for one in advice(clean() + 0.01 * hum)] == [Problem.TONES]


def test_what_is_gravest_comes_first() -> None:
    spoiled = with_noise(np.clip(clean(6.0) * 5, -1, 1), 15)[: 6 * RATE]
    found = [one.problem for one in advice(np.clip(spoiled, -1, 1), text="Oh.", kind="MP3", subtype="MPEG_LAYER_III")]
    assert found[-2:] == [Problem.SHORT, Problem.TEXT_TOO_SHORT] and Problem.LOSSY in found[:-2]


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"<|speaker:0|>{TEXT[:60]}<|speaker:1|>{TEXT[60:]}",
        f"[excited] {TEXT} [laughs]",
        "Die Fähre legt um neun Uhr ab, also sollten wir etwas früher dort sein. Nimm bitte einen warmen Mantel mit aufs Wasser.",
        "渡船九点出发，所以我们应该早一点到那里。带上外套，因为水面上风很大。我姐姐会在对岸等我们。",
        "フェリーは九時に出ます。少し早めに着いたほうがいいでしょう。海の上は風が強いので上着を持ってきてください。",
    ],
)
def test_a_transcript_that_fits_is_left_alone_in_any_script(text: str) -> None:
    assert advice(clean(), text=text) == []

"""Turns spoken for the evaluation: what is said does not depend on what is said beside it, and nothing is said twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.api import EngineLimits, Reference, SamplingParams, SpokenSegment, Voice
from engine.evaluate.speaking import Mouth, Request, Rows, Setting
from engine.heads import FILE as ALIGNMENT
from engine.load import core_of, load_model
from tests.engine.evaluating import MINI

SHORT = Request(("Hello there.",))
TWO = Request(("Well,", "good morning."), seed=3)
HISTORY = SpokenSegment("Yes.", np.zeros((1, 3), np.int16))


def setting(folder: Path = MINI, workers: int = 0, rows: int = 2) -> Setting:
    return Setting(folder, "mini", "cpu", SamplingParams(), workers, rows)


@pytest.fixture(scope="module")
def mouth() -> Iterator[Mouth]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with Mouth(setting()) as opened:
        yield opened
    torch.set_num_threads(threads)


def test_a_turn_is_spoken_in_segments_whose_ends_are_known(mouth: Mouth) -> None:
    (spoken,) = mouth.speak([TWO])
    assert len(spoken.ends) == 2
    assert 0 < spoken.ends[0] < spoken.ends[1] == spoken.codes.shape[1]
    assert len(spoken.samples) == spoken.codes.shape[1] * mouth.info.frame_samples
    parts = [spoken.part(i, mouth.info.frame_samples) for i in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(parts), spoken.samples)


def test_more_turns_than_rows_are_all_spoken_in_order_and_the_same_as_alone(mouth: Mouth) -> None:
    spoken = mouth.speak([Request(("Yes.",), seed=9), TWO, SHORT])
    with Mouth(setting(rows=1)) as alone:
        np.testing.assert_array_equal(alone.speak([SHORT])[0].codes, spoken[2].codes)


def test_processes_say_what_this_one_says(mouth: Mouth) -> None:
    with Mouth(setting(workers=2, rows=1)) as pool:
        spoken = pool.speak([SHORT, TWO])
    for one, other in zip(spoken, mouth.speak([SHORT, TWO]), strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)


def test_what_was_spoken_is_not_spoken_again(tmp_path: Path) -> None:
    told: list[str] = []
    for again in (False, True):
        told.clear()
        with Mouth(setting(), tmp_path, told.append) as kept:
            (spoken,) = kept.speak([SHORT], "greetings")
            assert kept.speak([SHORT], "greetings")[0] is spoken
        assert told == ([] if again else ["greetings: 1 turns"])
    assert len(list(tmp_path.glob("*.npz"))) == 1


@pytest.mark.parametrize(
    "other",
    [
        Request(("Hello there!",)),
        Request(("Hello there.",), seed=1),
        Request(("Hello", "there.")),
        Request(("Hello there.",), history=(HISTORY,)),
        Request(("Hello there.",), Voice("none", (Reference("Yes.", HISTORY.codes),))),
    ],
    ids=["text", "seed", "segments", "history", "voice"],
)
def test_requests_that_differ_are_told_apart(other: Request) -> None:
    assert other.digest(SamplingParams()) != SHORT.digest(SamplingParams())


def test_another_temperature_is_another_request() -> None:
    assert SHORT.digest(SamplingParams()) != SHORT.digest(SamplingParams(temperature=0.7))


def test_a_history_without_codes_is_accepted(mouth: Mouth) -> None:
    none = SpokenSegment("[whisper] Yes.", np.zeros((mouth.info.codebooks, 0), np.int16))
    (spoken,) = mouth.speak([Request(("Hello there.",), history=(none,))])
    assert len(spoken.samples)


def test_fewer_bits_say_something_else_and_are_kept_apart(mouth: Mouth, tmp_path: Path) -> None:
    said = []
    for format in (None, "nf4"):
        told: list[str] = []
        with Mouth(replace(setting(), quantize=format), tmp_path, told.append) as kept:
            said += kept.speak([SHORT])
        assert told, "what the other one said was taken"
        assert ("nf4" in kept.info.dtype) == (format is not None)
    np.testing.assert_array_equal(said[0].codes, mouth.speak([SHORT])[0].codes)
    assert said[0].codes.shape != said[1].codes.shape or (said[0].codes != said[1].codes).any()


def test_what_another_arithmetic_said_is_not_taken_for_its_own(tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        told: list[str] = []
        with Mouth(replace(setting(), dtype=dtype), tmp_path, told.append) as kept:
            kept.speak([SHORT])
        assert told and kept.info.dtype == dtype


def test_nobody_is_watched_while_he_speaks_and_says_the_same(mouth: Mouth) -> None:
    """On a GPU a step is a graph only where nobody follows the text."""
    assert (MINI / ALIGNMENT).exists()
    watched = load_model(MINI, "mini", "cpu", "auto", None)
    assert watched.heads is not None
    assert setting().load().heads is None
    rows = Rows(core_of(watched, EngineLimits(max_streams=2, kv_positions=4096)), 2, SamplingParams())
    rows.begin(0, TWO)
    ((_, spoken),) = [made for _ in iter(lambda: rows.busy, False) for made in rows.step()]
    rows.close()
    np.testing.assert_array_equal(spoken.codes, mouth.speak([TWO])[0].codes)


@pytest.mark.gpu
def test_a_gpu_speaks_in_graphs_unless_it_is_asked_for_plain_steps() -> None:
    for plain in (False, True):
        with Mouth(replace(setting(), device="cuda", plain=plain)) as opened:
            (spoken,) = opened.speak([SHORT])
            core = opened._rows._core
        assert spoken.cut is None and spoken.codes.shape[1] > 5
        assert core._runner.graphed is not plain


def test_a_recording_at_another_rate_becomes_codes_of_the_same_length(mouth: Mouth) -> None:
    rate = mouth.sample_rate
    seconds = 0.5
    lengths = {mouth.encode(np.zeros(int(seconds * r), np.float32), r).shape[1] for r in (rate, 2 * rate)}
    assert len(lengths) == 1


def test_a_turn_that_the_engine_ends_says_why() -> None:
    short = Setting(MINI, "mini", "cpu", SamplingParams(max_frames=2), 0, 1)
    with Mouth(short) as cut:
        (spoken,) = cut.speak([TWO])
    assert spoken.cut == "length"
    assert spoken.codes.shape[1] == 2
    assert spoken.ends == (2, 2)

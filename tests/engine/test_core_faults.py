"""What the core does when the model produces no speech.

The runner is real but for what its rows draw: random weights cannot be told to fail in a given way, so a script stands in for the drawn
frames. Unrealistic: real NaN would spread through KV, which the script only imitates by writing one there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.api import Conversation, SegmentRetried, SynthesisFailed
from engine.core import EngineCore
from engine.runner import Drawn
from tests.engine.core_driver import Driver, tiny_core

SENTENCE = "This sentence takes a good while to say."
END, LOUD, QUIET, NAN = "end", 0.3, 0.0, float("nan")
Script = Iterator[object]


@pytest.fixture
def scripted(s2pro: Path) -> Callable[..., EngineCore]:
    """A guarded core whose row i draws what the i-th script says."""

    def make(*scripts: Sequence[object]) -> EngineCore:
        core = tiny_core(s2pro, guarded=True)
        endless = [chain(script, repeat(END)) for script in scripts]
        real = core._runner.frames

        def frames(hidden, rows):  # type: ignore[no-untyped-def]
            return [
                scripted_draw(core, drawn, next(endless[row]))
                for drawn, row in zip(real(hidden, rows), rows, strict=True)
            ]

        core._runner.frames = frames  # type: ignore[method-assign]
        return core

    return make


def scripted_draw(core: EngineCore, drawn: Drawn, wanted: object) -> Drawn:
    if wanted == END:
        return Drawn()
    level = float(wanted)  # type: ignore[arg-type]
    codes = np.zeros(core.info.codebooks, np.int16) if drawn.codes is None else drawn.codes
    token = core._prompts.frames(codes[:, None].astype(np.int16))
    return Drawn(codes, token, np.full(core.info.frame_samples, level, np.float32))


def run(core: EngineCore, *texts: str, conversation: str = "a") -> "object":
    driver = Driver(core)
    heard = driver.open(Conversation(conversation), *texts, frames=10_000)
    driver.run(5000)
    return heard


def test_a_segment_that_ends_at_once_is_tried_again_and_nobody_hears_of_it(scripted) -> None:  # type: ignore[no-untyped-def]
    heard = run(scripted([END, *[LOUD] * 40]), SENTENCE)
    assert heard.retries == [SegmentRetried(0, "empty")]
    assert len(heard.frames) == 40 and heard.ends[0].cut is None and heard.ended.error is None


def test_a_segment_that_ends_at_once_twice_is_an_error(scripted) -> None:  # type: ignore[no-untyped-def]
    heard = run(scripted([END, END]), SENTENCE)
    assert isinstance(heard.ended.error, SynthesisFailed) and heard.ended.error.code == "degenerate"
    assert heard.frames == []


def test_one_frame_of_noise_is_never_a_success(scripted) -> None:  # type: ignore[no-untyped-def]
    heard = run(
        scripted([LOUD, END]), "A long sentence of which one single frame of sound can never be a reading at all."
    )
    assert isinstance(heard.ended.error, SynthesisFailed)


def test_nan_in_the_first_frame_is_tried_again(scripted) -> None:  # type: ignore[no-untyped-def]
    heard = run(scripted([NAN, *[LOUD] * 40]), SENTENCE)
    assert heard.retries == [SegmentRetried(0, "nan")]
    assert len(heard.frames) == 40 and all(np.isfinite(frame.samples).all() for frame in heard.frames)


def test_nan_later_cuts_the_segment_and_the_next_one_is_spoken(scripted) -> None:  # type: ignore[no-untyped-def]
    heard = run(scripted([*[LOUD] * 12, NAN, *[LOUD] * 30]), SENTENCE, SENTENCE)
    assert [(end.frames, end.cut) for end in heard.ends] == [(12, "nan"), (30, None)]
    assert heard.ended.error is None


def test_a_runaway_is_cut_at_its_bound(scripted) -> None:  # type: ignore[no-untyped-def]
    heard = run(scripted(repeat(LOUD)), "Hi.")
    assert heard.ends[0].cut == "runaway" and heard.ended.error is None
    assert len(heard.frames) * heard.frames[0].samples.size / 44100 < 8.0


def test_dead_air_is_cut_and_not_kept(scripted) -> None:  # type: ignore[no-untyped-def]
    heard = run(scripted([*[LOUD] * 20, *[QUIET] * 200]), SENTENCE)
    assert (heard.ends[0].cut, heard.ends[0].frames) == ("silence", 20)


def test_nothing_but_silence_is_an_error(scripted) -> None:  # type: ignore[no-untyped-def]
    heard = run(scripted(repeat(QUIET)), SENTENCE)
    assert isinstance(heard.ended.error, SynthesisFailed)


def test_frame_numbers_have_no_gap_across_a_retry_and_a_cut(scripted) -> None:  # type: ignore[no-untyped-def]
    heard = run(scripted([END, *[LOUD] * 12, NAN, *[LOUD] * 30]), SENTENCE, SENTENCE)
    assert [frame.index for frame in heard.frames] == list(range(42))


def test_a_poisoned_conversation_leaves_no_nan_for_the_next_owner_of_its_pages(scripted) -> None:  # type: ignore[no-untyped-def]
    core = scripted([*[LOUD] * 3, NAN, *[LOUD] * 40])
    driver = Driver(core)
    heard = driver.open(Conversation("a"), SENTENCE, SENTENCE, frames=10_000)
    while not heard.ends:
        if len(heard.frames) == 3:
            sequence = core.cache._conversations["a"]
            core.cache.pool.values[:, sequence.pages] = float("nan")
        driver.step()
    driver.run(5000)
    assert torch.isfinite(core.cache.pool.values).all() and torch.isfinite(core.cache.pool.keys).all()
    assert heard.ends[1].cut is None

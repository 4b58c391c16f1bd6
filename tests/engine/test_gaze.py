"""Looks that are taken while a step is computed, against attention computed as a whole. On the tiny reference checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.align import all_looks
from engine.api import Conversation, EngineLimits, Voice
from engine.config import StackConfig
from engine.gaze import Look, TextSpan
from engine.heads import ChosenHeads, Head
from engine.kv import CachedSequence
from engine.load import Loaded, core_of
from engine.runner import Runner
from tests.engine.core_driver import Driver, random_codes, tiny_model

HEADS = (Head(0, 1), Head(0, 3), Head(2, 0))
TEXTS = ("A strange noise.", "It came from behind the wall, and then it stopped.")


@pytest.fixture(scope="module")
def loaded(s2pro: Path) -> Loaded:
    return tiny_model(s2pro)


def span(loaded: Loaded, text: str) -> TextSpan:
    column, starts = loaded.prompts.text_starts(text)
    return TextSpan(loaded.prompts.system(Voice("none")).shape[1] + column, len(starts))


def served(loaded: Loaded, codes: list[np.ndarray]) -> list[list[Look]]:
    """Looks of each text while it is given `codes`: prefilled alone, then stepped together."""
    runner = Runner(loaded.model, loaded.codec, EngineLimits(max_streams=2, kv_positions=1024), heads=HEADS)
    rows, looks = [], list[list[Look]]()
    for text in TEXTS:
        row = CachedSequence(runner.pool, 10)
        prompt = np.concatenate([loaded.prompts.system(Voice("none")), loaded.prompts.user(text)], 1)
        row.extend(prompt)
        gaze = runner.gaze([span(loaded, text)])
        assert gaze is not None
        runner.prefill(row, prompt.shape[1], gaze)
        rows.append(row)
        looks.append(gaze.looks())
    for frame in range(codes[0].shape[1] - 1):
        for row, of in zip(rows, codes, strict=True):
            row.extend(loaded.prompts.frames(of[:, frame : frame + 1]))
        gaze = runner.gaze([span(loaded, text) for text in TEXTS])
        assert gaze is not None
        runner.decode(rows, gaze)
        for collected, look in zip(looks, gaze.looks(), strict=True):
            collected.append(look)
    return looks


def test_looks_of_a_batch_are_those_of_full_attention_of_each_row(loaded: Loaded) -> None:
    codes = [random_codes(6, seed) for seed in range(2)]
    stack: StackConfig = loaded.model.config.slow
    numbers = [head.layer * stack.n_head + head.head for head in HEADS]
    for text, of, looks in zip(TEXTS, codes, served(loaded, codes), strict=True):
        whole = all_looks(loaded, text, of)[numbers].mean(0)  # [T, S]
        np.testing.assert_allclose(np.stack(looks), whole, rtol=1e-3, atol=1e-6)


def test_a_look_is_a_share_of_the_whole_attention(loaded: Loaded) -> None:
    for looks in served(loaded, [random_codes(3, 0), random_codes(3, 1)]):
        assert all((look >= 0).all() and 0 < look.sum() < 1 for look in looks)


def test_without_chosen_heads_there_is_no_gaze(loaded: Loaded) -> None:
    runner = Runner(loaded.model, loaded.codec, EngineLimits(max_streams=1, kv_positions=256))
    assert runner.gaze([TextSpan(0, 1)]) is None


def spoken(loaded: Loaded, heads: tuple[Head, ...]) -> Driver:
    chosen = ChosenHeads(heads, "", 1.0) if heads else None
    core = core_of(
        Loaded(loaded.model, loaded.codec, loaded.prompts, loaded.info, chosen), EngineLimits(2, 2048), guarded=False
    )
    driver = Driver(core)
    for number in range(2):
        driver.open(Conversation(f"c{number}"), *TEXTS, frames=9 + number)
    driver.run()
    return driver


def test_looking_changes_nothing_that_is_heard(loaded: Loaded) -> None:
    blind, seeing = spoken(loaded, ()), spoken(loaded, HEADS)
    for plain, followed in zip(blind.streams.values(), seeing.streams.values(), strict=True):
        np.testing.assert_array_equal(plain.codes, followed.codes)
        assert all(frame.text_at is None for frame in plain.frames)


def test_every_frame_tells_a_code_point_of_its_own_segment(loaded: Loaded) -> None:
    for heard in spoken(loaded, HEADS).streams.values():
        assert heard.frames
        for frame in heard.frames:
            assert frame.text_at is not None and 0 <= frame.text_at < len(TEXTS[frame.segment])

"""A turn that goes on and on: its voice stays, its cache does not grow, and it is never too long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import engine
from engine.api import Conversation, EngineLimits, Reference, SamplingParams, Voice
from engine.core import EngineCore
from engine.gaze import Gaze
from engine.kv import CachedSequence
from engine.load import Loaded, load_model
from engine.model import Hidden
from engine.runner import Runner
from engine.stream import OpenStream
from tests.engine.core_driver import Driver, assert_nothing_leaked

TEXTS = tuple(
    f"{what} is closed on Mondays."
    for what in ("The museum", "Our office", "The bakery", "His shop", "The old library")
)
SECONDS = 4.0  # of speech that the checkpoint is said to be good for; all texts together take more than twice as long


def open_stream(speech: list[int]) -> OpenStream:
    """After segments of so many positions of speech; each piece holds its own number."""
    past = [np.zeros((1, 3), np.int64)]
    for number, positions in enumerate(speech, 1):
        past += [np.full((1, 2), number), np.full((1, positions), number)]
    return OpenStream(1, 0, "a", "none", SamplingParams(), past, most=100)


def remembered(stream: OpenStream) -> list[int]:
    return [int(piece[0, 0]) for piece in stream.past[2::2]]


def test_nothing_is_forgotten_while_it_fits() -> None:
    stream = open_stream([40, 30])
    stream.remember(np.full((1, 2), 3), np.full((1, 30), 3))
    assert remembered(stream) == [1, 2, 3]


def test_more_goes_than_must_since_what_stays_is_computed_anew() -> None:
    stream = open_stream([20, 20, 20, 20])
    stream.remember(np.full((1, 2), 5), np.full((1, 30), 5))
    assert remembered(stream) == [4, 5]  # 50 of the 60 that may stay
    assert stream.past[0].shape == (1, 3) and [piece.shape[1] for piece in stream.past[1:]] == [2, 20, 2, 30]


def test_what_was_said_last_is_always_remembered() -> None:
    stream = open_stream([20])
    stream.remember(np.full((1, 2), 2), np.full((1, 300), 2))
    assert remembered(stream) == [2]


@pytest.fixture(scope="module")
def mini() -> Iterator[Loaded]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield load_model(Path(engine.__file__).parent / "mini", "mini", "cpu", "float32", None)
    torch.set_num_threads(threads)


def core_with(mini: Loaded, seconds: float) -> EngineCore:
    limits = EngineLimits(max_streams=2, kv_positions=4096)
    info = replace(mini.info, max_history_s=seconds)
    return EngineCore(Runner(mini.model, mini.codec, limits), mini.prompts, info, limits)


def prefills_of(core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Where in the prompt each prefill begins."""
    starts: list[int] = []
    prefill = core._runner.prefill

    def recording(sequence: CachedSequence, positions: int, look: Gaze | None = None) -> Hidden:
        starts.append(sequence.length - positions)
        return prefill(sequence, positions, look)

    monkeypatch.setattr(core._runner, "prefill", recording)
    return starts


@pytest.mark.parametrize("own", [False, True], ids=["the model's", "the conversation's"])
def test_a_long_turn_speaks_to_its_end_with_its_voice_and_a_bounded_cache(
    mini: Loaded, monkeypatch: pytest.MonkeyPatch, own: bool
) -> None:
    params = SamplingParams(seed=3)
    driver = Driver(core_with(mini, 60.0))
    before = driver.open(Conversation("before"), "Good morning, and welcome.", frames=300, params=params)
    driver.run()
    voice = Voice("anna", (Reference("Good morning, and welcome.", before.codes),))
    prefix, speech = mini.prompts.system(voice).shape[1], round(SECONDS / mini.info.frame_s)

    driver = Driver(core := core_with(mini, 60.0 if own else SECONDS))
    starts = prefills_of(core, monkeypatch)
    conversation = Conversation("a", max_s=SECONDS if own else None)
    heard = driver.open(conversation, *TEXTS, voice=voice, frames=2000, params=params)
    longest = 0
    while core.has_work():
        driver.step()
        longest = max([longest, *(stream.extendable.length for stream in core._streams.values())])
    assert heard.ended is not None and heard.ended.error is None
    assert [end.cut for end in heard.ends] == [None] * len(TEXTS)
    assert len(heard.frames) > 2 * speech
    asked = sum(mini.prompts.user(text).shape[1] for text in TEXTS)
    assert (
        longest < prefix + asked + speech + max(end.frames for end in heard.ends) < prefix + asked + len(heard.frames)
    )
    assert starts[0] == 0 and min(starts[1:]) >= prefix, "the voice was computed once"
    assert min(starts[1:]) < prefix + mini.prompts.user(TEXTS[0]).shape[1], (
        "what follows it, without what was forgotten, again"
    )
    assert_nothing_leaked(core)

"""The batched core on the tiny reference checkpoint: caching, batching, truth after an interruption, bookkeeping."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import commands as c
from engine import scheduler
from engine.api import Conversation, SamplingParams, SynthesisFailed
from engine.core import EngineCore
from engine.kv import OutOfPages
from tests.engine.core_driver import (
    NO_VOICE,
    Driver,
    Heard,
    assert_nothing_leaked,
    spoken,
    tiny_core,
    voice,
)

MakeCore = Callable[..., EngineCore]

TOLERANCE = 1e-4  # the fixture's, for fp32


@pytest.fixture
def core_of(s2pro: Path) -> MakeCore:
    return partial(tiny_core, s2pro)


def test_a_turn_stops_at_its_credit_and_goes_on_with_more(core_of: MakeCore) -> None:
    driver = Driver(core_of())
    heard = driver.open(Conversation("a"), "Hello there.", frames=5)
    driver.run()
    assert [frame.index for frame in heard.frames] == list(range(5))
    driver.core.handle(c.Allow(heard.key, 9))
    driver.run()
    assert [frame.index for frame in heard.frames] == list(range(9))


def test_a_stream_does_not_depend_on_its_neighbours(core_of: MakeCore) -> None:
    params = [SamplingParams(seed=s, temperature=0.9, top_k=20, top_p=0.95) for s in range(3)]
    alone = []
    for i in range(3):
        driver = Driver(core_of())
        heard = driver.open(Conversation(f"c{i}"), f"Text number {i}.", voice=voice(i), params=params[i], frames=9)
        driver.run()
        alone.append(heard)
    driver = Driver(core_of())
    together = []
    for i in range(3):  # they join one after the other, in mid-flight
        heard = driver.open(Conversation(f"c{i}"), f"Text number {i}.", voice=voice(i), params=params[i], frames=9)
        together.append(heard)
        for _ in range(3):
            driver.step()
    driver.run()
    for by_itself, heard in zip(alone, together, strict=True):
        assert (heard.codes == by_itself.codes).all()
        assert np.abs(heard.samples - by_itself.samples).max() < 1e-5


def test_the_same_seed_and_turn_give_the_same_codes_and_others_do_not(core_of: MakeCore) -> None:
    def codes(seed: int, turn: int) -> np.ndarray:
        driver = Driver(core_of())
        heard = driver.open(Conversation("a"), "Hello.", params=SamplingParams(seed=seed), turn=turn, frames=4)
        driver.run()
        return heard.codes

    assert (codes(1, 1) == codes(1, 1)).all()
    assert (codes(1, 1) != codes(2, 1)).any()
    assert (codes(1, 1) != codes(1, 2)).any()


@pytest.mark.parametrize(
    "change",
    [{"temperature": 0.05}, {"top_p": 0.01}, {"top_k": 1}, {"repetition_penalty": 2.0}, {"seed": 9}],
    ids=lambda c: next(iter(c)),
)
def test_every_sampling_parameter_acts(core_of: MakeCore, change: dict[str, float]) -> None:
    base = {"temperature": 1.0, "top_p": 1.0, "top_k": 2, "seed": 0}  # repeats a semantic token at frame 26
    frames = 40 if "repetition_penalty" in change else 8
    codes = []
    for values in (base, base | change):
        driver = Driver(core_of())
        heard = driver.open(Conversation("a"), "B b b", params=SamplingParams(**values), frames=frames)  # type: ignore[arg-type]
        driver.run()
        codes.append(heard.codes)
    assert not np.array_equal(codes[0], codes[1])


def test_max_frames_ends_the_turn_and_says_so(core_of: MakeCore) -> None:
    driver = Driver(core_of())
    heard = driver.open(
        Conversation("a"), "Hello there.", "Never reached.", params=SamplingParams(max_frames=7), frames=50
    )
    driver.run()
    assert len(heard.frames) == 7
    assert [(end.segment, end.frames, end.cut) for end in heard.ends] == [(0, 7, "length")]
    assert heard.ended == c.Ended()


def test_a_cancelled_stream_says_nothing_more_and_frees_its_row(core_of: MakeCore) -> None:
    core = core_of(max_streams=1)
    driver = Driver(core)
    heard = driver.open(Conversation("a"), "Hello.", frames=40)
    for _ in range(3):
        driver.step()
    said = len(heard.frames)
    driver.cancel(heard)
    driver.push(heard, "late")
    driver.run()
    assert len(heard.frames) == said and heard.ended is None
    assert driver.open(Conversation("b"), "Hello.", frames=2).ended is None


def test_a_prompt_beyond_the_model_is_refused_and_the_rest_goes_on(core_of: MakeCore) -> None:
    driver = Driver(core_of(kv_positions=16384))
    fine = driver.open(Conversation("b"), "Hello.", frames=3)
    huge = driver.open(Conversation("a", (spoken("Long.", 4200, 1),)), "Hello.", frames=3)
    driver.run()
    assert (
        huge.ended is not None and isinstance(huge.ended.error, SynthesisFailed) and huge.ended.error.code == "too_long"
    )
    assert len(fine.frames) == 3


def test_running_out_of_pages_fails_one_stream_with_a_reason(core_of: MakeCore) -> None:
    driver = Driver(core_of(kv_positions=256))
    first = driver.open(Conversation("a", (spoken("Long.", 120, 1),)), "Hello.", frames=3)
    second = driver.open(Conversation("b", (spoken("Long.", 120, 2),)), "Hello.", frames=3)
    driver.run()
    assert len(first.frames) == 3
    assert second.ended is not None and isinstance(second.ended.error, SynthesisFailed)
    assert second.ended.error.code == "out_of_memory"


# -- edges --------------------------------------------------------------------------------------------------------------------------------


def positions_of(core: EngineCore, text: str) -> int:
    """Of a first segment's prompt."""
    return int(core._prompts.system(NO_VOICE).shape[1] + core._prompts.user(text).shape[1])


@pytest.mark.parametrize(("room", "frames"), [(0, 0), (1, 0), (2, 3), (5, 6)])
def test_a_model_is_used_to_its_last_position(core_of: MakeCore, room: int, frames: int) -> None:
    driver = Driver(core := core_of())
    core._runner.max_positions = positions_of(core, "Hello there.") + room  # whose reading takes two frames at least
    heard = driver.open(Conversation("a"), "Hello there.", "More.", frames=50)
    driver.run()
    # The last frame needs no position: one is taken to draw the next.
    assert len(heard.frames) == frames and [end.cut for end in heard.ends] == ["length"] * bool(frames)
    assert heard.ended is not None and isinstance(heard.ended.error, SynthesisFailed)
    assert heard.ended.error.code == "too_long"
    assert_nothing_leaked(core)


def test_a_stream_without_text_waits_without_work_and_ends_when_told(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    heard = driver.open(Conversation("a", (spoken("Before.", 20, 1),)), finish=False)
    driver.run()
    assert not core.has_work() and heard.ended is None
    core.handle(c.Finish(heard.key))
    driver.run()
    assert heard.ended == c.Ended() and heard.frames == []
    assert_nothing_leaked(core)


def test_a_stream_without_credit_waits_without_work(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    heard = driver.open(Conversation("a"), "Hello.", frames=0)
    driver.run()
    assert not core.has_work() and heard.frames == []
    core.handle(c.Allow(heard.key, 1))
    driver.run()
    assert len(heard.frames) == 1


@pytest.mark.parametrize("pause", ["credit", "text"])
def test_a_pause_in_credit_or_text_puts_nobody_in_debt(core_of: MakeCore, pause: str) -> None:
    driver = Driver(core := core_of())
    now = 100.0
    core._clock = lambda: now
    heard = driver.open(Conversation("a"), "Hello there.", frames=6, finish=False)
    driver.run()
    assert len(heard.frames) == 6
    stream = core._streams[heard.key]
    if pause == "text":
        core._cut(stream, "length")  # as if the model had ended the segment
        core.handle(c.Allow(heard.key, 12))
    now += 60.0
    if pause == "text":
        driver.push(heard, "Hello there.")
    else:
        core.handle(c.Allow(heard.key, 12))
    assert stream.lead_s(now, core.info.frame_s) == pytest.approx(0.0)
    driver.run()
    new = len(heard.frames) - 6
    assert new > 1 and stream.lead_s(now, core.info.frame_s) == pytest.approx(new * core.info.frame_s)


def test_a_stream_that_is_cancelled_before_the_first_step_leaves_nothing(core_of: MakeCore) -> None:
    driver = Driver(core := core_of(max_streams=1))
    for _ in range(3):
        heard = driver.open(Conversation("a"), "Hello.")
        driver.cancel(heard)
    assert not core.has_work()
    assert_nothing_leaked(core)


def test_an_empty_segment_harms_nobody(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    heard = driver.open(Conversation("a"), "", frames=3)
    driver.run()
    assert len(heard.frames) == 3
    driver.cancel(heard)
    assert_nothing_leaked(core)


def test_prefill_in_small_pieces_beside_an_urgent_speaker_changes_nothing(
    core_of: MakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_newcomer(driver: Driver) -> Heard:
        return driver.open(Conversation("new", (spoken("Before.", 70, 2),)), "Hello.", voice=voice(), frames=3)

    driver = Driver(core_of())
    expected = open_newcomer(driver)
    driver.run()
    for most in ("BESIDE_SPEECH", "MOST_BESIDE_SPEECH"):
        monkeypatch.setattr(scheduler, most, 7)
    for bound in ("URGENT_S", "COMFORTABLE_S"):
        monkeypatch.setattr(scheduler, bound, 1e9)
    driver = Driver(core_of())
    driver.open(Conversation("old"), "B b b", frames=100)
    for _ in range(2):
        driver.step()
    newcomer, steps = open_newcomer(driver), 0
    while not newcomer.frames:
        driver.step()
        steps += 1
    driver.run()
    assert steps > 20 and (newcomer.codes == expected.codes).all()


def test_control_tokens_typed_by_a_user_are_text(core_of: MakeCore) -> None:
    core = core_of()
    control = list(core._prompts._tokenizer._specials.values())
    typed, empty = (core._prompts.user(text)[0] for text in ("<|im_end|><|semantic:5|>", ""))
    assert np.isin(typed, control).sum() == np.isin(empty, control).sum()


# -- whatever happens ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_core(s2pro: Path) -> EngineCore:
    """Three streams, and pages for two and a half."""
    return tiny_core(s2pro, max_streams=3, kv_positions=640)


OPERATIONS = ["open", "push", "finish", "allow", "cancel", "step", "forget", "prefetch", "encode", "abandon"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), st.integers(0, 5)), min_size=5, max_size=50))
def test_rows_and_pages_balance_under_any_commands(small_core: EngineCore, operations: list[tuple[str, int]]) -> None:
    core, driver = small_core, Driver(small_core)
    live: dict[int, Heard] = {}
    for operation, n in operations:
        heard = live.get(n)
        if heard is not None and heard.ended is not None:
            del live[n]
            heard = None
        conversation = Conversation(f"c{n}", tuple(spoken("Said.", 40 * n, k) for k in range(n % 3)))
        match operation:
            case "open" if heard is None and len(core._streams) < core.limits.max_streams:
                live[n] = driver.open(conversation, frames=2, voice=voice(n % 2), finish=False)
            case "push" if heard is not None:
                driver.push(heard, "Hi there.")
            case "finish" if heard is not None:
                core.handle(c.Finish(heard.key))
            case "allow" if heard is not None:
                core.handle(c.Allow(heard.key, 4 + n))
            case "cancel" if heard is not None:
                driver.cancel(live.pop(n))
            case "step":
                driver.step()
            case "forget":
                core.handle(c.Forget(f"c{n}"))
            case "prefetch":
                core.handle(c.Prefetch(conversation, voice(n % 2)))
            case "encode":
                core.handle(c.Encode(n, 44100, 5000))
                core.handle(c.Recording(n, np.zeros(2500 * (1 + n % 2), np.float32)))
            case "abandon":
                core.handle(c.Abandon(n))
    driver.run()
    assert all([f.index for f in heard.frames] == list(range(len(heard.frames))) for heard in driver.streams.values())
    for heard in live.values():
        driver.cancel(heard)
    for n in range(6):
        core.handle(c.Abandon(n))
    driver.run()
    assert_nothing_leaked(core)
    for n in range(6):
        core.handle(c.Forget(f"c{n}"))
    assert not core.cache._conversations


def test_running_out_of_pages_anywhere_fails_who_needed_one_and_nobody_else(
    core_of: MakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures, n = 0, 0
    while True:
        core = core_of()
        left = n
        take = core.cache.pool.take

        def refuse(after: int | None) -> int:
            nonlocal left
            left -= 1
            if left == -1:
                raise OutOfPages
            return take(after)  # noqa: B023

        monkeypatch.setattr(core.cache.pool, "take", refuse)
        monkeypatch.setattr(core.cache, "_make_room", lambda: False)
        driver = Driver(core)
        core.handle(c.Prefetch(Conversation("hint"), voice()))
        driver.step()
        streams = [
            driver.open(Conversation(str(i), (spoken("Said.", 20, i),)), "Hello.", "More.", voice=voice(), frames=3)
            for i in range(3)
        ]
        driver.run()
        failed = [heard for heard in streams if heard.ended is not None]
        assert len(failed) <= 1 and all(len(heard.frames) == 3 for heard in streams if heard not in failed)
        failures += len(failed)
        for heard in streams:
            driver.cancel(heard)
        assert_nothing_leaked(core)
        n += 1
        if left >= 0:
            break
    assert failures > 5

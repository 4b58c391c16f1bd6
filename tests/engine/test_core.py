"""The batched core on the tiny reference checkpoint: caching, batching, truth after an interruption, bookkeeping."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import commands as c
from engine.api import Conversation, Reference, SamplingParams, SpokenSegment, SynthesisFailed, Voice
from engine.core import EngineCore
from tests.engine.core_driver import Driver, tiny_core

MakeCore = Callable[..., EngineCore]

TOLERANCE = 1e-4  # the fixture's, for fp32


@pytest.fixture
def core_of(s2pro: Path) -> MakeCore:
    return partial(tiny_core, s2pro)


@pytest.fixture(scope="module")
def shared_core(s2pro: Path) -> EngineCore:
    return tiny_core(s2pro, max_streams=3)


def voice(seed: int = 0, frames: int = 17) -> Voice:
    codes = np.random.default_rng(seed).integers(0, 1024, (10, frames)).astype(np.int16)
    return Voice(f"voice-{seed}", (Reference("A reference.", codes),))


def spoken(text: str, frames: int, seed: int) -> SpokenSegment:
    codes = np.random.default_rng(seed).integers(0, 1024, (10, frames)).astype(np.int16)
    return SpokenSegment(text, codes)


def record_hidden(core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every hidden state that frames are drawn from, [B, D] a step."""
    seen: list[torch.Tensor] = []
    frames = core._runner.frames

    def recording(hidden, rows):  # type: ignore[no-untyped-def]
        seen.append(torch.cat([h.head for h in hidden]).clone())
        return frames(hidden, rows)

    monkeypatch.setattr(core._runner, "frames", recording)
    return seen


def test_a_turn_stops_at_its_credit_and_goes_on_with_more(core_of: MakeCore) -> None:
    driver = Driver(core_of())
    heard = driver.open(Conversation("a"), "Hello there.", frames=5)
    driver.run()
    assert [frame.index for frame in heard.frames] == list(range(5))
    driver.core.handle(c.Allow(heard.key, 9))
    driver.run()
    assert [frame.index for frame in heard.frames] == list(range(9))


def test_a_later_turn_prefills_only_its_own_text_and_what_closes_the_turn_before(core_of: MakeCore) -> None:
    core = core_of()
    driver = Driver(core)
    first = driver.open(Conversation("a"), "One brown fox.", voice=voice())
    driver.run()
    driver.core.handle(c.Cancel(first.key))
    history = (SpokenSegment("One brown fox.", first.codes[:, :-1]),)  # the last frame was never fed back
    before = core.cache.counters.prefilled
    driver.open(Conversation("a", history), "Two lazy dogs.", voice=voice())
    driver.run()
    prompts = core._prompts
    closing = prompts.spoken(first.codes[:, :-1]).shape[1] - (first.codes.shape[1] - 1)
    assert core.cache.counters.prefilled - before == closing + prompts.user("Two lazy dogs.").shape[1]


def test_segments_of_a_turn_prefill_only_their_own_text(core_of: MakeCore) -> None:
    core = core_of()
    driver = Driver(core)
    params = SamplingParams(temperature=1.0, top_k=1, max_frames=60)
    before = core.cache.counters.prefilled
    text = "Hello there, this is a small test. [whisper] 你好，世界!"
    heard = driver.open(Conversation("a"), text, "End.", frames=60, params=params)
    driver.run()
    assert heard.ends[0].cut is None, "this text is one that the random weights end by themselves"
    prompts = core._prompts
    first = prompts.system(Voice("none")).shape[1] + prompts.user(text).shape[1]
    closing = prompts.spoken(heard.codes[:, : heard.ends[0].frames]).shape[1] - heard.ends[0].frames
    assert core.cache.counters.prefilled - before == first + closing + prompts.user("End.").shape[1]


def test_after_an_interruption_the_model_is_where_it_would_be_had_only_the_heard_part_existed(
    core_of: MakeCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted, fresh = core_of(), core_of()
    driver = Driver(interrupted)
    earlier = spoken("Good morning.", 14, 1)
    first = driver.open(
        Conversation("a", (earlier,)), "The rest of this was never heard by anyone.", frames=20, voice=voice()
    )
    driver.run()
    driver.core.handle(c.Cancel(first.key))
    heard = (earlier, SpokenSegment("The rest of", first.codes[:, :6]))
    before = interrupted.cache.counters.prefilled
    seen = [record_hidden(core, monkeypatch) for core in (interrupted, fresh)]
    codes = []
    for core in (interrupted, fresh):
        driver = Driver(core)
        turn = driver.open(Conversation("a", heard), "Next one.", voice=voice(), turn=2)
        driver.run()
        codes.append(turn.codes)
    assert (codes[0] == codes[1]).all()
    for a, b in zip(*seen, strict=True):
        assert (a - b).abs().max() < TOLERANCE
    # At most the cut segment and the new text are computed again, never the voice or the segment before.
    prompts = interrupted._prompts
    own = (
        prompts.user("The rest of").shape[1]
        + prompts.spoken(first.codes[:, :6]).shape[1]
        + prompts.user("Next one.").shape[1]
    )
    assert interrupted.cache.counters.prefilled - before <= own


def test_a_stream_does_not_depend_on_its_neighbours(core_of: MakeCore) -> None:
    params = [SamplingParams(seed=s, temperature=0.9, top_k=20, top_p=0.95) for s in range(3)]
    alone = []
    for i in range(3):
        driver = Driver(core_of())
        heard = driver.open(Conversation(f"c{i}"), f"Text number {i}.", voice=voice(i), params=params[i], frames=16)
        driver.run()
        alone.append((heard.codes, np.concatenate([frame.samples for frame in heard.frames])))
    driver = Driver(core_of())
    together = []
    for i in range(3):  # they join one after the other, in mid-flight
        heard = driver.open(Conversation(f"c{i}"), f"Text number {i}.", voice=voice(i), params=params[i], frames=16)
        together.append(heard)
        for _ in range(4):
            driver.step()
    driver.run()
    for (codes, samples), heard in zip(alone, together, strict=True):
        assert (heard.codes == codes).all()
        assert np.abs(np.concatenate([frame.samples for frame in heard.frames]) - samples).max() < 1e-5


def test_the_same_seed_and_turn_give_the_same_codes_and_others_do_not(core_of: MakeCore) -> None:
    def codes(seed: int, turn: int) -> np.ndarray:
        driver = Driver(core_of())
        heard = driver.open(Conversation("a"), "Hello.", params=SamplingParams(seed=seed), turn=turn, frames=8)
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
    codes = []
    for values in (base, base | change):
        driver = Driver(core_of())
        heard = driver.open(Conversation("a"), "B b b", params=SamplingParams(**values), frames=60)  # type: ignore[arg-type]
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
    core.handle(c.Cancel(heard.key))
    core.handle(c.Push(heard.key, "late"))
    driver.run()
    assert len(heard.frames) == said and heard.ended is None
    assert driver.open(Conversation("b"), "Hello.", frames=2).ended is None


def test_a_voice_is_prefilled_once_for_all_its_conversations(core_of: MakeCore) -> None:
    core = core_of()
    driver = Driver(core)
    shared = voice(3, 60)
    driver.open(Conversation("a"), "Hello.", voice=shared, frames=2)
    driver.run()
    before = core.cache.counters.prefilled
    driver.open(Conversation("b"), "Other words.", voice=shared, frames=2)
    driver.run()
    assert core.cache.counters.prefilled - before == core._prompts.user("Other words.").shape[1]


def test_a_prefetched_conversation_starts_with_its_own_text(core_of: MakeCore) -> None:
    core = core_of()
    driver = Driver(core)
    conversation = Conversation("a", (spoken("Before.", 30, 1),))
    core.handle(c.Prefetch(conversation, voice()))
    driver.run()
    before = core.cache.counters.prefilled
    driver.open(conversation, "Now.", voice=voice(), frames=2)
    driver.run()
    assert core.cache.counters.prefilled - before == core._prompts.user("Now.").shape[1]


def test_an_evicted_conversation_is_rebuilt_with_the_same_codes(core_of: MakeCore) -> None:
    core = core_of(kv_positions=512)
    driver = Driver(core)
    history = (spoken("Before.", 60, 1),)
    first = driver.open(Conversation("a", history), "Hello.", frames=10)
    driver.run()
    core.handle(c.Cancel(first.key))
    for i in range(4):
        other = driver.open(Conversation(f"b{i}", (spoken("Other.", 90, i),)), "Hello.", frames=10)
        driver.run()
        core.handle(c.Cancel(other.key))
    assert core.cache.counters.evicted > 0 and core.cache.cached_positions("a") == 0
    again = driver.open(Conversation("a", history), "Hello.", frames=10)
    driver.run()
    assert (again.codes == first.codes).all()


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


def test_control_tokens_typed_by_a_user_are_text(core_of: MakeCore) -> None:
    core = core_of()
    control = list(core._prompts._tokenizer._specials.values())
    typed, empty = (core._prompts.user(text)[0] for text in ("<|im_end|><|semantic:5|>", ""))
    assert np.isin(typed, control).sum() == np.isin(empty, control).sum()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["open", "push", "finish", "allow", "cancel", "step", "forget"]), st.integers(0, 5)),
        min_size=5,
        max_size=50,
    )
)
def test_rows_and_pages_balance_under_any_commands(shared_core: EngineCore, operations: list[tuple[str, int]]) -> None:
    core = shared_core
    driver = Driver(core)
    live: dict[int, int] = {}  # slot -> key
    for operation, n in operations:
        key = live.get(n)
        if operation == "open" and key is None and len(core._streams) < core.limits.max_streams:
            live[n] = driver.open(Conversation(f"c{n}"), frames=2, finish=False).key
        elif operation == "step":
            driver.step()
        elif operation == "forget" and key is None:
            core.handle(c.Forget(f"c{n}"))
        elif key is not None:
            if operation == "push":
                core.handle(c.Push(key, "Hi there."))
            elif operation == "finish":
                core.handle(c.Finish(key))
            elif operation == "allow":
                core.handle(c.Allow(key, 4 + n))
            elif operation == "cancel":
                core.handle(c.Cancel(live.pop(n)))
    for key in list(live.values()):
        core.handle(c.Cancel(key))
    driver.run()
    assert sorted(core._free_rows) == list(range(core.limits.max_streams))
    for n in range(6):
        core.handle(c.Forget(f"c{n}"))
    held = {page for sequence in core.cache._voices.values() for page in sequence.pages}
    assert core.cache.pool.free == core.cache.pool.pages - len(held)

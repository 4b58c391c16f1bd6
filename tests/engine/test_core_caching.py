"""What the core computes anew and what it finds cached, and that nothing else tells the two apart. On the tiny reference checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import commands as c
from engine import scheduler
from engine.api import Conversation, Reference, SamplingParams, SpokenSegment, Voice
from engine.core import EngineCore
from tests.engine.core_driver import Driver, assert_nothing_leaked, random_codes, spoken, tiny_core, voice

MakeCore = Callable[..., EngineCore]

TOLERANCE = 1e-4  # the fixture's, for fp32


@pytest.fixture
def core_of(s2pro: Path) -> MakeCore:
    return partial(tiny_core, s2pro)


def record_hidden(core: EngineCore, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Every hidden state that frames are drawn from, [B, D] a step."""
    seen: list[torch.Tensor] = []
    draw = core._runner.draw

    def recording(hidden, rows, sequences):  # type: ignore[no-untyped-def]
        seen.append(torch.cat([h.head for h in hidden]).clone())
        return draw(hidden, rows, sequences)

    monkeypatch.setattr(core._runner, "draw", recording)
    return seen


def test_a_later_turn_prefills_only_its_own_text_and_what_closes_the_turn_before(core_of: MakeCore) -> None:
    core = core_of()
    driver = Driver(core)
    first = driver.open(Conversation("a"), "One brown fox.", voice=voice())
    driver.run()
    driver.cancel(first)
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
    driver.cancel(first)
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


def test_an_evicted_conversation_is_rebuilt_with_the_same_codes(core_of: MakeCore) -> None:
    core = core_of(kv_positions=512)
    driver = Driver(core)
    history = (spoken("Before.", 60, 1),)
    first = driver.open(Conversation("a", history), "Hello.", frames=10)
    driver.run()
    driver.cancel(first)
    for i in range(4):
        other = driver.open(Conversation(f"b{i}", (spoken("Other.", 90, i),)), "Hello.", frames=10)
        driver.run()
        driver.cancel(other)
    assert core.cache.counters.evicted > 0 and core.cache.cached_positions("a") == 0
    again = driver.open(Conversation("a", history), "Hello.", frames=10)
    driver.run()
    assert (again.codes == first.codes).all()


def test_a_conversation_forgotten_while_it_speaks_speaks_on_and_is_gone_afterwards(core_of: MakeCore) -> None:
    codes = []
    for forget in (False, True):
        driver = Driver(core := core_of())
        heard = driver.open(Conversation("a"), "Hello there.", frames=8)
        while len(heard.frames) < 4:
            driver.step()
        if forget:
            core.handle(c.Forget("a"))
        driver.run()
        driver.cancel(heard)
        assert (core.cache.cached_positions("a") == 0) is forget
        assert_nothing_leaked(core)
        codes.append(heard.codes)
    assert (codes[0] == codes[1]).all()


@pytest.mark.parametrize("chunk", [-1, 0, 1])
def test_a_voice_is_shared_wherever_its_prefill_is_cut(
    core_of: MakeCore, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    whole, cut = Driver(core_of()), Driver(core := core_of())
    prefix = core._prompts.system(voice(1, 40)).shape[1]
    codes = []
    for driver, alone in ((whole, scheduler.ALONE), (cut, prefix + chunk)):
        monkeypatch.setattr(scheduler, "ALONE", alone)
        for name in "ab":
            before = driver.core.cache.counters.prefilled
            heard = driver.open(Conversation(name), "Hello.", voice=voice(1, 40), frames=3)
            driver.run()
            codes.append(heard.codes)
        assert driver.core.cache.counters.prefilled - before == core._prompts.user("Hello.").shape[1]
    assert all((other == codes[0]).all() for other in codes)


def test_a_voice_is_shared_even_if_its_prefetch_was_overtaken(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    history = (spoken("Before.", 400, 1),)
    core.handle(c.Prefetch(Conversation("a", history), voice()))
    driver.step()
    assert core._prompts.system(voice()).shape[1] < core.cache.cached_positions("a") < 400
    driver.open(Conversation("a", history), "Hello.", voice=voice(), frames=1)
    driver.run()
    before = core.cache.counters.prefilled
    driver.open(Conversation("b"), "Hello.", voice=voice(), frames=1)
    driver.run()
    assert core.cache.counters.prefilled - before == core._prompts.user("Hello.").shape[1]


def test_voices_that_share_an_id_wrongly_still_sound_like_themselves(core_of: MakeCore) -> None:
    def reference(seed: int, name: str) -> Voice:
        return Voice(name, (Reference("A reference.", random_codes(17, seed)),))

    def codes(core: EngineCore, seed: int, name: str) -> np.ndarray:
        driver = Driver(core)
        heard = driver.open(Conversation(f"{name}{seed}"), "Hello.", voice=reference(seed, name), frames=3)
        driver.run()
        driver.cancel(heard)
        return heard.codes

    core = core_of()
    expected = [codes(core_of(), seed, str(seed)) for seed in (0, 1)]
    for seed in (0, 1, 0):
        assert (codes(core, seed, "same") == expected[seed]).all()
    assert_nothing_leaked(core)

"""Prefill for conversations that are about to speak: what it computes, and what it never takes from anybody."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from engine import commands as c
from engine.api import Conversation
from engine.core import EngineCore
from engine.prefetch import POSITIONS
from tests.engine.core_driver import Driver, assert_nothing_leaked, spoken, tiny_core, voice

MakeCore = Callable[..., EngineCore]


@pytest.fixture
def core_of(s2pro: Path) -> MakeCore:
    return partial(tiny_core, s2pro)


def hint(name: str, frames: int) -> c.Prefetch:
    return c.Prefetch(Conversation(name, (spoken("Before.", frames, 1),)), voice())


def test_a_prefetched_conversation_starts_with_its_own_text(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    core.handle(hint("a", 400))
    driver.run()
    before = core.cache.counters.prefilled
    driver.open(Conversation("a", (spoken("Before.", 400, 1),)), "Now.", voice=voice(), frames=2)
    driver.run()
    assert core.cache.counters.prefilled - before == core._prompts.user("Now.").shape[1]


def test_hints_are_followed_one_after_the_other_in_bounded_steps(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    core.handle(hint("a", 400))
    core.handle(hint("b", 20))
    while core.has_work():
        before = core.cache.counters.prefilled
        driver.step()
        assert 0 < core.cache.counters.prefilled - before <= POSITIONS
        assert core.cache.cached_positions("b") == 0 or core.cache.cached_positions("a") > 400
    assert core.cache.cached_positions("b") > 20


def test_speech_comes_before_hints(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    core.handle(hint("a", 20))
    heard = driver.open(Conversation("b"), "Hello.", frames=3)
    while len(heard.frames) < 3:
        driver.step()
        assert core.cache.cached_positions("a") == 0
    driver.run()
    assert core.cache.cached_positions("a") > 20


def test_a_newer_hint_replaces_one_for_the_same_conversation(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    core.handle(hint("a", 400))
    driver.step()
    core.handle(hint("a", 30))
    driver.run()
    assert 30 < core.cache.cached_positions("a") < 400


def test_a_conversation_that_is_forgotten_is_not_prefilled(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    core.handle(hint("a", 400))
    driver.step()
    core.handle(c.Forget("a"))
    assert not core.has_work() and core.cache.cached_positions("a") == 0
    assert_nothing_leaked(core)


def test_a_conversation_that_speaks_needs_no_hint(core_of: MakeCore) -> None:
    driver = Driver(core := core_of())
    driver.open(Conversation("a"), "Hello.", frames=2)
    driver.run()
    core.handle(hint("a", 30))
    assert not core.has_work()


@pytest.mark.parametrize("frames", [600, 5000], ids=["pages", "positions"])
def test_a_hint_that_can_never_fit_costs_nobody_anything(core_of: MakeCore, frames: int) -> None:
    driver = Driver(core := core_of(kv_positions=512))
    driver.cancel(driver.open(Conversation("idle"), "Hello.", frames=2))
    core.handle(hint("a", frames))
    assert not core.has_work() and core.cache.counters.evicted == 0


def test_a_speaking_stream_takes_the_pages_of_a_prefetch_which_then_starts_again(core_of: MakeCore) -> None:
    driver = Driver(core := core_of(kv_positions=704))
    core.handle(hint("a", 500))
    driver.step()
    cached = core.cache.cached_positions("a")
    assert 0 < cached < 500
    heard = driver.open(Conversation("b", (spoken("Said.", 400, 2),)), "Hello.", voice=voice(), frames=2)
    while not heard.frames:
        driver.step()
    assert heard.ended is None and core.cache.cached_positions("a") == 0
    driver.cancel(heard)
    driver.run()
    assert core.cache.cached_positions("a") > 500 and core.cache.cached_positions("b") == 0
    assert_nothing_leaked(core)


def test_a_prefetch_without_room_beside_speech_gives_up_and_harms_nobody(core_of: MakeCore) -> None:
    driver = Driver(core := core_of(kv_positions=768))
    heard = driver.open(Conversation("b", (spoken("Said.", 500, 2),)), "Hello.", frames=2)
    driver.run()
    core.handle(hint("a", 400))
    driver.run()
    core.handle(c.Allow(heard.key, 8))
    driver.run()
    assert len(heard.frames) == 8 and heard.ended is None
    driver.cancel(heard)
    assert_nothing_leaked(core)

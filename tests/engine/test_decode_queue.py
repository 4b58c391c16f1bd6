"""Frames that are decoded several at once sound as they do one by one, and nobody waits for one who has not enough to play."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engine import commands as c
from engine.api import Conversation, EngineLimits
from engine.core import EngineCore
from engine.load import core_of
from tests.engine.core_driver import Driver, Heard, assert_nothing_leaked, tiny_model

pytestmark = pytest.mark.torch

SEVERAL = 3


class Clocked:
    """A core whose decoder takes so many frames of a row at once, its clock, and (rows, frames) of each call that was made."""

    def __init__(self, folder: Path, several: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("engine.graphed_decoder.SEVERAL", several)
        self.core: EngineCore = core_of(tiny_model(folder), EngineLimits(3, 8192), guarded=False, graphs=True)
        self.now, self.calls = 0.0, list[tuple[int, int]]()
        self.core._clock = lambda: self.now
        decoder = self.core._decoding.decoder
        start = decoder.start

        def started(codes: npt.NDArray[np.int16], rows: Sequence[int]) -> None:
            self.calls.append((codes.shape[0], codes.shape[2]))
            start(codes, rows)

        decoder.start = started  # type: ignore[method-assign]
        self.driver = Driver(self.core)

    def open(self, name: str, frames: int) -> Heard:
        return self.driver.open(Conversation(name), f"What {name} says.", frames=frames)


def assert_sounds_alike(some: Heard, others: Heard) -> None:
    assert len(some.frames) == len(others.frames) > 0
    for mine, theirs in zip(some.frames, others.frames, strict=True):
        assert mine.index == theirs.index
        assert np.array_equal(mine.codes, theirs.codes)
        np.testing.assert_allclose(mine.samples, theirs.samples, atol=1e-5)


def test_a_stream_alone_whose_listener_has_enough_is_decoded_several_frames_at_once(
    s2pro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, several = Clocked(s2pro, (), monkeypatch), Clocked(s2pro, (SEVERAL, 2), monkeypatch)
    alone, heard = (core.open("a", 24) for core in (one, several))
    one.driver.run()
    several.driver.run()
    assert_sounds_alike(heard, alone)
    assert set(one.calls) == {(1, 1)}
    frame_s = several.core.info.frame_s
    early = int(0.5 / frame_s) + 1  # frames that are as much as a listener must have
    assert several.calls[:early] == [(1, 1)] * early
    rest = 24 - early
    assert several.calls[early:] == [(1, SEVERAL)] * (rest // SEVERAL) + [(1, rest % SEVERAL)] * bool(rest % SEVERAL)
    several.core.handle(c.Allow(heard.key, 25))  # and no more: so there is nothing to wait for
    several.driver.run()
    assert len(heard.frames) == 25


def test_a_listener_who_has_little_gets_each_frame_as_it_comes(s2pro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Clocked(s2pro, (SEVERAL, 2), monkeypatch)
    slow.open("a", 20)
    while slow.core.has_work():
        slow.driver.step()
        slow.now += slow.core.info.frame_s  # it plays as fast as frames are made
    assert slow.calls == [(1, 1)] * 20


def test_who_joins_or_leaves_a_stream_that_is_held_back_changes_nothing(
    s2pro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.core.ENOUGH_S", 0.0)
    one, several = Clocked(s2pro, (), monkeypatch), Clocked(s2pro, (SEVERAL, 2), monkeypatch)
    spoken = []
    for core in (one, several):
        first = core.open("a", 30)
        others = []
        for step in range(200):
            if step in (6, 9, 15):
                others.append(core.open(f"b{step}", 5 + step))
            if step == 12:  # whose row somebody else gets
                core.core.handle(c.Cancel(others[0].key))
            if step == 18:
                core.core.handle(c.Cancel(first.key))
                first = core.open("c", 17)
                others.append(first)
            core.driver.step()
        core.driver.run()
        spoken.append(others)
    assert (1, SEVERAL) in several.calls and (1, 2) in several.calls and (2, 1) in several.calls
    for mine, theirs in zip(spoken[1][1:], spoken[0][1:], strict=True):
        assert_sounds_alike(mine, theirs)
    assert not several.core._decoding
    for heard in spoken[1]:
        several.driver.cancel(heard)
    assert_nothing_leaked(several.core)

"""A server that is late takes no new turn: it waits, and is refused in the end; nobody else notices."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from engine.api import Busy, Conversation, SamplingParams, Voice
from realtime.admission import CAREFUL_S, LATE_S, RETRY_S, AdmittingEngine
from realtime.scripted import Script, ScriptedEngine


def test_a_stream_is_refused_while_the_server_is_late_and_had_afterwards() -> None:
    async def scene() -> None:
        now, late_s, inner = 0.0, LATE_S * 1.01, ScriptedEngine()
        engine = AdmittingEngine(inner, lambda: late_s, lambda: now)
        asked = (Conversation("c"), Voice("v"), SamplingParams(), 1)
        with pytest.raises(Busy, match="no time for another stream") as refusal:
            engine.open(*asked)
        assert refusal.value.retry_after_s > 0 and not inner.streams
        late_s = LATE_S
        stream = engine.open(*asked)
        assert inner.streams == {"c": stream} and engine.capacity().streams == 1

    asyncio.run(scene())


def test_who_waits_comes_in_one_by_one_until_the_server_was_in_time_for_a_while() -> None:
    async def scene() -> None:
        now, late_s = 0.0, LATE_S * 2
        engine = AdmittingEngine(ScriptedEngine(Script(max_streams=100)), lambda: late_s, lambda: now)

        def come_in(most: int) -> int:
            came = 0
            for number in range(most):
                with suppress(Busy):
                    engine.open(Conversation(f"{now} {number}"), Voice("v"), SamplingParams(), 1)
                    came += 1
            return came

        assert come_in(10) == 0
        late_s = 0.0
        assert come_in(10) == 1, "and what it costs is seen before the next"
        now = RETRY_S * 0.9
        assert come_in(10) == 0
        now = RETRY_S
        assert come_in(10) == 1
        now = CAREFUL_S
        assert come_in(10) == 10

    asyncio.run(scene())


def test_everything_else_passes_to_the_engine() -> None:
    async def scene() -> None:
        inner = ScriptedEngine()
        engine = AdmittingEngine(inner, lambda: 9.0, lambda: 0.0)
        engine.prefetch(Conversation("c"), Voice("v"))
        engine.forget("c")
        assert inner.prefetched and inner.forgotten == ["c"] and engine.info is inner.info
        codes = await engine.encode(inner.sound(inner.codes("a", 0, 0, 0)[:, 0]), inner.info.sample_rate)
        assert codes.shape == (inner.info.codebooks, 1)
        assert (await engine.decode(codes)).shape == (inner.info.frame_samples,)

    asyncio.run(scene())

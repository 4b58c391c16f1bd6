"""What `bench conversation` tries on a server that listens: somebody speaks into the agent's answer, and was a false alarm; and marks.

The caller's voice is the server's own, recorded before and louder than the answer, over a room's noise. How well speech is told from noise
is measured apart (`realtime.hearing_report`): here it is tried that a session acts on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio
import numpy as np
import numpy.typing as npt
import soxr

from protocol.client import AudioChunk, Client, Turn
from protocol.commands import AudioInput, BargeIn, PlaybackState, UplinkFormat
from protocol.config import Clock, PacingConfig
from protocol.events import MarkEvent, MarkState, SpeechStarted, TurnPaused, TurnResumed
from protocol.messages import Event, Status
from realtime.bench_figures import first_audible
from realtime.bench_promises import Bound, Finding, Promise, never, worst
from realtime.bench_stage import Listener, Stage, Take, taken
from realtime.bench_text import text_of

RATE_HZ: Final = 16_000
PIECE: Final = RATE_HZ // 50  # 20 ms
CALLER_PEAK: Final = 0.7  # somebody who speaks into the microphone; the agent's voice has a third of it
ROOM: Final = 0.001  # -60 dB below full scale: a quiet room
BEFORE_S: Final = 1.0
CALLS_S: Final = 1.5
AFTER_S: Final = 3.0
NOTICED_MS: Final = 600.0  # min_speech_ms, half as much again for the detector, and two processes on a busy machine
MARKED: Final = ("The first part is here, ", "and the second comes after it, ", "and this is the end.")

_Samples = npt.NDArray[np.float32]


@dataclass
class _Call:
    """What came of it."""

    spoke_at: float | None = None  # s, the first audible sample was sent
    noticed_at: list[float] = field(default_factory=list)  # s


async def barge_in(stage: Stage) -> Sequence[Finding]:
    """A caller says something and stops: the turn pauses, goes on by itself, and is whole."""
    caller = await _caller(stage)
    call = _Call()

    def on_event(event: Event) -> None:
        if isinstance(event, SpeechStarted):
            call.noticed_at.append(stage.now())

    text = text_of(stage.seed, 7, 1)
    pacing = PacingConfig(lead_ms=1_000, burst_ms=300, clock=Clock.ACK)
    async with stage.client({"pacing": pacing}, on_event=on_event) as client:
        turn = client.speak(text)
        take = Take(text, client.config.audio.output.rate)
        listener = Listener(stage, turn, take)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.report)
            tasks.start_soon(_speak_up, stage, client, caller, call)
            async for item in turn:
                take.add(item, stage.now())
            tasks.cancel_scope.cancel()
    done = take.done
    assert done is not None, "the turn was read to its end"
    paused = sum(isinstance(event, TurnPaused) for _, event in take.events)
    resumed = sum(isinstance(event, TurnResumed) for _, event in take.events)
    early = sum(call.spoke_at is None or at < call.spoke_at for at in call.noticed_at)
    delays = [
        1000 * (at - call.spoke_at) for at in call.noticed_at if call.spoke_at is not None and at >= call.spoke_at
    ]
    whole = done.status is Status.COMPLETED and done.heard.text == text
    return (
        worst("from speech to speech.started", delays[:1], NOTICED_MS),
        never("noticed before anybody spoke", early, f"{BEFORE_S:g} s of a quiet room"),
        Promise("paused for it", paused, 1, "times", Bound.AT_LEAST),
        Promise("went on by itself", resumed, 1, "times", Bound.AT_LEAST),
        never("turns that were not whole after it", not whole, done.status),
    )


async def _caller(stage: Stage) -> _Samples:
    text = text_of(stage.seed, 7, 0)
    async with stage.client({"pacing": PacingConfig(clock=Clock.NONE)}) as client:
        take = await taken(stage, client, client.speak(text), text)
    voice = np.asarray(soxr.resample(take.samples(), take.rate, RATE_HZ), np.float32)
    voice = voice[first_audible(voice) or 0 :][: round(CALLS_S * RATE_HZ)]
    room = np.random.default_rng(stage.seed)
    whole = (ROOM * room.standard_normal(round((BEFORE_S + CALLS_S + AFTER_S) * RATE_HZ))).astype(np.float32)
    start = round(BEFORE_S * RATE_HZ)
    whole[start : start + len(voice)] += voice * np.float32(CALLER_PEAK / np.abs(voice).max())
    return whole


async def _speak_up(stage: Stage, client: Client, caller: _Samples, call: _Call) -> None:
    announced = AudioInput(format=UplinkFormat.PCM_S16LE, rate=RATE_HZ, barge_in=BargeIn.PAUSE, resume_after_ms=500)
    microphone = await client.listen(announced)
    pcm = np.clip(caller * 32768, -32768, 32767).astype("<i2")
    begun = stage.now()
    for start in range(0, len(pcm), PIECE):
        piece = pcm[start : start + PIECE]
        await anyio.sleep(max(0.0, begun + start / RATE_HZ - stage.now()))
        if call.spoke_at is None and start >= round(BEFORE_S * RATE_HZ):
            call.spoke_at = stage.now()
        await microphone.hear(piece.tobytes(), len(piece))
    await microphone.close()


async def marks(stage: Stage) -> Sequence[Finding]:
    """Marks are told with their place, once when it exists and once when it was heard; those that nobody hears are dropped."""
    told: list[MarkEvent] = []

    def on_event(event: Event) -> None:
        if isinstance(event, MarkEvent):
            told.append(event)

    pacing = PacingConfig(lead_ms=30_000, burst_ms=30_000, clock=Clock.ACK)
    async with stage.client({"pacing": pacing}, on_event=on_event) as client:
        turns: list[Turn] = []
        for _ in range(2):
            turn = client.speak()
            turns.append(turn)
            for number, part in enumerate(MARKED):
                await turn.append(part)
                turn.mark(f"m{number}")
            turn.end()
            take = Take("".join(MARKED), client.config.audio.output.rate)
            async for item in turn:
                take.add(item, stage.now())
                if len(turns) == 2 and isinstance(item, AudioChunk):
                    await turn.played(0, PlaybackState.STALLED)  # nobody listens to this one
            told += [event for _, event in take.events if isinstance(event, MarkEvent)]
            if turn is turns[0]:
                await turn.played(round(take.sent_ms), PlaybackState.ENDED)
                await client.ping()
        await client.interrupt(turns[1], played_ms=0)
    first, second = turns[0].id, turns[1].id
    generated = [event for event in told if event.state == MarkState.GENERATED and event.turn == first]
    played = [event.name for event in told if event.state == MarkState.PLAYED and event.turn == first]
    dropped = [event.name for event in told if event.state == MarkState.DROPPED and event.turn == second]
    return (
        Promise("told when they exist", len(generated), len(MARKED), "marks", Bound.AT_LEAST),
        Promise("told when they are heard", len(played), len(MARKED), "marks", Bound.AT_LEAST),
        Promise("dropped with a turn that nobody heard", len(dropped), len(MARKED), "marks", Bound.AT_LEAST),
    )

"""A voice from its recording to its first frame, as a server does it: recording -> codes -> the prompt's keys and values, through the core.

Knows the order of commands, and which positions are computed when a voice is known. Does not know clocks: `now` gives monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from engine import commands as c
from engine.api import Codes, Conversation, EngineError, Frame, Reference, Samples, SamplingParams, Voice
from engine.bench_serving import Now
from engine.core import EngineCore
from engine.front import PIECE_SAMPLES
from engine.prompt import PromptBuilder

RATE_HZ = 48_000  # of the recording, which must be resampled: a browser's microphone
TRANSCRIPT = "Said in it. "  # so many times that a tokenizer of bytes has as many tokens as a real one for what takes so long to say
TOKENS_PER_S = 4.0  # of speech
TEXT = "So that is how it sounds."
FRAMES = 4  # of a turn: the first one counts


@dataclass(frozen=True, slots=True)
class Cloned:
    """Milliseconds, and positions that were computed."""

    encode_ms: float  # from the recording to its codes
    prefill_ms: float  # from there until the voice's positions are cached
    positions: int  # of the voice
    computed: int  # of them, for it
    known_hint: int  # computed when another conversation was hinted at
    known_turn: int  # computed in its first turn, the turn's text not counted

    @property
    def ready_ms(self) -> float:
        """From the recording to a voice that is ready."""
        return self.encode_ms + self.prefill_ms


def clones(
    core: EngineCore, prompts: PromptBuilder, seconds: float, times: int, done: Callable[[], None], now: Now
) -> list[Cloned]:
    """Clone `times` voices of recordings of so many seconds, one after the other, while nobody speaks. done: waits for the device.

    Raises EngineError for what the core could not do.
    """
    noise = np.random.default_rng(0)
    return [_clone(core, prompts, _recording(noise, seconds), number, done, now) for number in range(times)]


def firsts(core: EngineCore, voice: Voice, times: int, now: Now) -> list[float]:
    """Milliseconds from a text to its first frame, one after the other, each in a conversation of its own with the voice in it."""
    out = []
    for number in range(times):
        conversation = f"first-{number}"
        _prefetched(core, conversation, voice)
        asked = now()
        _spoken(core, number, conversation, voice)
        out.append(1000 * (now() - asked))
        core.handle(c.Forget(conversation))
    return out


def made_voice(core: EngineCore, frames: int, entries: int) -> Voice:
    """Of so many frames of noise. entries: that every codebook has."""
    codes = np.random.default_rng(1).integers(0, entries, (core.info.codebooks, frames)).astype(np.int16)
    return Voice("known", (Reference("A voice.", codes),))


def _recording(noise: np.random.Generator, seconds: float) -> Samples:
    return noise.normal(0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)


def _clone(
    core: EngineCore, prompts: PromptBuilder, recording: Samples, number: int, done: Callable[[], None], now: Now
) -> Cloned:
    counters, seconds = core.cache.counters, len(recording) / RATE_HZ
    begun = now()
    codes = _encoded(core, recording, number)
    encoded = now()
    text = (TRANSCRIPT * (1 + round(TOKENS_PER_S * seconds) // len(TRANSCRIPT))).strip()
    voice, before = Voice(f"clone-{number}", (Reference(text, codes),)), counters.prefilled
    _prefetched(core, f"clone-{number}", voice)
    done()
    cached, computed = now(), counters.prefilled - before
    before = counters.prefilled
    _prefetched(core, f"other-{number}", voice)
    hinted = counters.prefilled - before
    before = counters.prefilled
    _spoken(core, number, f"other-{number}", voice)
    in_turn = counters.prefilled - before - prompts.user(TEXT).shape[1]
    for name in ("clone", "other"):
        core.handle(c.Forget(f"{name}-{number}"))
    return Cloned(
        1000 * (encoded - begun),
        1000 * (cached - encoded),
        prompts.system(voice).shape[1],
        computed,
        hinted,
        in_turn,
    )


def _encoded(core: EngineCore, recording: Samples, job: int) -> Codes:
    pieces: list[Codes] = []
    core.handle(c.Encode(job, RATE_HZ, recording.size))
    for start in range(0, recording.size, PIECE_SAMPLES):
        core.handle(c.Recording(job, recording[start : start + PIECE_SAMPLES]))
    while True:
        report = core.step()
        pieces += [piece.astype(np.int16) for _, piece in report.pieces]
        if job in report.done:
            _raise(report.done[job])
            return np.concatenate(pieces, axis=1)


def _prefetched(core: EngineCore, conversation: str, voice: Voice) -> None:
    core.handle(c.Prefetch(Conversation(conversation), voice))
    while core.has_work():
        core.step()


def _spoken(core: EngineCore, key: int, conversation: str, voice: Voice) -> None:
    """Up to the first frame; then interrupted."""
    core.handle(c.Open(key, Conversation(conversation), voice, SamplingParams(seed=key), 0))
    core.handle(c.Push(key, TEXT))
    core.handle(c.Finish(key))
    core.handle(c.Allow(key, FRAMES))
    while True:
        events = [event for _, event in core.step().events]
        for event in events:
            if isinstance(event, c.Ended):
                _raise(event.error)
        if any(isinstance(event, Frame) for event in events):
            core.handle(c.Cancel(key))
            return


def _raise(error: EngineError | None) -> None:
    if error is not None:
        raise error

"""What `bench conversation` tries on a server's sound: speed, volume, and how loud one turn is after the other; and its way with text.

Knows duration, pitch and loudness of samples. The same text with the same seed in a new session is the same speech, so that what a setting
changes can be told from what chance does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from protocol.config import Clock, PacingConfig, SamplingConfig
from protocol.events import WarningCode, WarningEvent
from realtime.bench_promises import Finding, Promise, never, worst
from realtime.bench_stage import Stage, Take, taken
from realtime.bench_text import short_text_of
from realtime.loudness import loudness_lufs

AT_ONCE: Final = PacingConfig(clock=Clock.NONE)  # nobody listens
SPEEDS: Final = (0.7, 1.5)
VOLUMES_DB: Final = (-6.0, 6.0)
DURATION_SHARE: Final = 0.03  # the project's own promises, of the issue that asked for speed
PITCH_SHARE: Final = 0.02
VOLUME_DB: Final = 1.0
JUMP_DB: Final = 6.0  # between two turns of one voice: what people begin to reach for the volume at
TURNS: Final = 4
PITCH_HZ: Final = (60.0, 400.0)
MARKED_UP: Final = (
    "## Today\n\n* The **old** clock is [here](https://example.org/a?b=c).\n* It works 🙂, as `run()` says.\n"
)


async def speed_and_volume(stage: Stage) -> Sequence[Finding]:
    """The same speech faster, slower, louder and softer."""
    plain = await _said(stage)
    findings: list[Finding] = []
    for speed in SPEEDS:
        take = await _said(stage, speed=speed)
        length = take.sent_ms * speed / plain.sent_ms - 1
        higher = _pitch_ratio(take, plain, speed)
        off = 100 * abs(higher - 1) if higher is not None else None
        findings.append(Promise(f"duration at speed {speed:g} is off by", 100 * abs(length), 100 * DURATION_SHARE, "%"))
        findings.append(Promise(f"pitch at speed {speed:g} is off by", off, 100 * PITCH_SHARE, "%"))
    for volume_db in VOLUMES_DB:
        take = await _said(stage, volume_db=volume_db)
        louder = loudness_lufs(take.samples(), take.rate) - loudness_lufs(plain.samples(), plain.rate)
        findings.append(Promise(f"volume at {volume_db:+g} dB is off by", abs(louder - volume_db), VOLUME_DB, "dB"))
    return findings


async def loudness(stage: Stage) -> Sequence[Finding]:
    """Turn after turn of one conversation: as loud as the one before."""
    levels: list[float] = []
    async with stage.client({"pacing": AT_ONCE}) as client:
        for number in range(TURNS):
            text = short_text_of(stage.seed + 1, number)
            take = await taken(stage, client, client.speak(text), text)
            levels.append(loudness_lufs(take.samples(), take.rate))
    return (worst("louder or softer than the turn before", [abs(a - b) for a, b in pairwise(levels)], JUMP_DB, "dB"),)


async def markup(stage: Stage) -> Sequence[Finding]:
    """What a language model writes for the eye: not read out as symbols, said so, and true to the letter all the same."""
    async with stage.client({"pacing": AT_ONCE}) as client:
        turn = client.speak([MARKED_UP[start : start + 3] for start in range(0, len(MARKED_UP), 3)])
        take = await taken(stage, client, turn, MARKED_UP)
    done = take.done
    assert done is not None, "the turn was read to its end"
    told = [event for _, event in take.events if isinstance(event, WarningEvent)]
    unsaid = not any(event.code == WarningCode.TEXT_NORMALIZED for event in told)
    return (
        never("text changed and nobody told", unsaid, f"{len(told)} warnings"),
        never("heard and remaining are not the text", done.heard.text + done.heard.remaining != MARKED_UP, "raw"),
    )


async def _said(stage: Stage, **fields: object) -> Take:
    text = short_text_of(stage.seed, 2000)
    plain = {"pacing": AT_ONCE, "sampling": SamplingConfig(seed=stage.seed)}
    async with stage.client({**plain, **fields}) as client:
        return await taken(stage, client, client.speak(text), text)


def _pitch_ratio(take: Take, plain: Take, speed: float) -> float | None:
    """How much higher `take` is where both say the same: the median over voiced places. None: no place is voiced in both."""
    here, there = _pitches(take), _pitches(plain)
    ratios = []
    for at, hz in here.items():
        place = round(at * speed)
        if (other := there.get(place, there.get(place + 1))) is not None:
            ratios.append(hz / other)
    return float(np.median(ratios)) if ratios else None


def _pitches(take: Take) -> dict[int, float]:
    """Pitch in Hz of voiced pieces of 40 ms, by their place in steps of 10 ms: autocorrelation, and a parabola through its peak.

    Source: Boersma, "Accurate short-term analysis of the fundamental frequency", 1993; without his window.
    """
    samples, rate = take.samples().astype(np.float64), take.rate
    size, low, high = rate // 25, round(rate / PITCH_HZ[1]), round(rate / PITCH_HZ[0])
    found: dict[int, float] = {}
    for place in range(0, (len(samples) - size - high) * 100 // rate):
        piece = samples[place * rate // 100 :][: size + high]
        head = piece[:size]
        if float(np.mean(head**2)) < 1e-4:
            continue
        energy = np.concatenate(([0.0], np.cumsum(piece**2)))
        powers = energy[size:] - energy[:-size]
        along = np.correlate(piece, head, "valid") / np.sqrt(powers * powers[0] + 1e-12)
        lag = low + int(along[low:high].argmax())
        if along[lag] < 0.8 or not low < lag < high - 1:
            continue
        before, at, after = along[lag - 1 : lag + 2]
        bend = before - 2 * at + after
        found[place] = rate / (lag + (0.5 * (before - after) / bend if bend else 0.0))
    return found

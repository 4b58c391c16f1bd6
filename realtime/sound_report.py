"""`python -m realtime.sound_report FILE...`: what the time stretch does to recordings, and how loudness changes from one to the next.

The files are a conversation's turns in order (`parley say -o`, `parley generate` and `decode`, or any speech, mono or not). Prints a table
for the speeds, one for loudness, one last line of JSON; exits with 1 where a promise about duration, pitch or delay is broken. Loudness
between turns is the model's: it is measured here, not promised.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import soundfile

from realtime.loudness import loudness_lufs
from realtime.stretch import TimeStretch

Samples = npt.NDArray[np.float32]  # [n], mono
Pitches = npt.NDArray[np.float64]  # Hz, one every PITCH_STEP_S, 0 where there is none

SPEEDS: Final = (0.25, 0.5, 0.7, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0)
PITCH_STEP_S: Final = 0.005
PITCH_WINDOW_S: Final = 0.030  # and as much again at most for the lag; longer ones miss what glides at speed 4
PITCH_HZ: Final = (60, 400)
VOICED: Final = 0.85  # least normalised autocorrelation

PIECE_S: Final = 1024 / 22050  # a codec frame of the mini and of S2 Pro
PACKET_S: Final = 0.020
MAX_DURATION_ERROR: Final = 0.03
MAX_PITCH_ERROR: Final = 0.02
MAX_DELAY_MS: Final = 30.0


@dataclass(frozen=True, slots=True)
class SpeedFigures:
    """Of one speed over all recordings."""

    speed: float
    duration_error: float  # of the output, relative; the worst recording
    pitch_bias: float  # median of output over input at the same place, less 1
    pitch_p90: float  # 90 % of places are off by less, relative
    voiced: int  # places compared, 5 ms of output each
    delay_ms: float  # input needed for a first packet of 20 ms beyond the input that it stands for; the worst recording
    cpu_ms: float  # of one core, for a second of output

    @property
    def broken(self) -> bool:
        """Whether a promise is."""
        return (
            abs(self.duration_error) > MAX_DURATION_ERROR
            or abs(self.pitch_bias) > MAX_PITCH_ERROR
            or self.delay_ms > MAX_DELAY_MS
        )


def pitches(samples: Samples, rate: int) -> Pitches:
    """One for each PITCH_STEP_S; number i is about the PITCH_WINDOW_S from i * PITCH_STEP_S on."""
    window, longest, shortest = round(PITCH_WINDOW_S * rate), rate // PITCH_HZ[0], rate // PITCH_HZ[1]
    smooth = np.convolve(samples.astype(np.float64), np.ones(5) / 5, "same")
    starts = [round(i * PITCH_STEP_S * rate) for i in range(int(len(samples) / rate / PITCH_STEP_S))]
    starts = [start for start in starts if start + window + longest <= len(smooth)]
    return np.array([_pitch(smooth[s : s + window + longest], window, shortest) * rate for s in starts])


def _pitch(part: npt.NDArray[np.float64], window: int, shortest: int) -> float:
    """In periods a sample; 0: none."""
    sums = np.concatenate((np.zeros(1), np.cumsum(part**2)))
    powers = sums[window:] - sums[:-window]
    if powers[0] < window * 1e-6:
        return 0.0
    alike = np.correlate(part, part[:window], "valid") / np.sqrt(np.maximum(powers * powers[0], 1e-12))
    peaks = [lag for lag in range(shortest, len(alike) - 1) if alike[lag - 1] <= alike[lag] >= alike[lag + 1]]
    best = max((alike[lag] for lag in peaks), default=0.0)
    if best < VOICED:
        return 0.0
    lag = next(lag for lag in peaks if alike[lag] > 0.95 * best)  # the first of several periods
    before, here, after = alike[lag - 1 : lag + 2]
    curve = before - 2 * here + after
    return float(1 / (lag + (0.5 * (before - after) / curve if curve else 0.0)))


def pitch_ratios(before: Samples, after: Samples, rate: int, speed: float) -> npt.NDArray[np.float64]:
    """Pitch of `after` over that of `before`, wherever both have one. An octave of difference is the tracker's, and left out."""
    own, its = pitches(before, rate), pitches(after, rate)
    middles_s = (np.arange(len(its)) * PITCH_STEP_S + PITCH_WINDOW_S / 2) * speed
    places = np.rint((middles_s - PITCH_WINDOW_S / 2) / PITCH_STEP_S).astype(int)
    inside = (places >= 0) & (places < len(own))
    own, its = own[places[inside]], its[inside]
    both = (own > 0) & (its > 0)
    ratios: npt.NDArray[np.float64] = its[both] / own[both]
    return ratios[np.abs(np.log2(ratios)) < 0.5]


def _spoken(samples: Samples, rate: int, speed: float) -> tuple[Samples, float, float]:
    """The stretched recording, the delay of its first packet in ms, and the CPU time in s."""
    stretch, piece = TimeStretch(rate, speed), round(PIECE_S * rate)
    began = time.process_time()
    parts = [stretch.push(samples[at : at + piece]) for at in range(0, len(samples), piece)]
    stretched = np.concatenate([*parts, stretch.finish()])
    cpu_s = time.process_time() - began
    probe, got, needed = TimeStretch(rate, speed), 0, 0
    while got < PACKET_S * rate and needed < len(samples):
        got += len(probe.push(samples[needed : needed + 16]))
        needed += 16
    return stretched, (needed / rate - PACKET_S * speed) * 1000, cpu_s


def figures(recordings: Sequence[tuple[Samples, int]], speed: float) -> SpeedFigures:
    """What one speed does to them; each with its rate in Hz."""
    ratios, durations, delays, cpu_s, output_s = [np.zeros(0)], [0.0], [0.0], 0.0, 0.0
    for samples, rate in recordings:
        stretched, delay_ms, used_s = _spoken(samples, rate, speed)
        ratios.append(pitch_ratios(samples, stretched, rate, speed))
        durations.append(len(stretched) * speed / len(samples) - 1)
        delays.append(delay_ms)
        cpu_s, output_s = cpu_s + used_s, output_s + len(stretched) / rate
    ratio = np.concatenate(ratios)
    return SpeedFigures(
        speed=speed,
        duration_error=max(durations, key=abs),
        pitch_bias=float(np.median(ratio)) - 1 if len(ratio) else 0.0,
        pitch_p90=float(np.quantile(np.abs(ratio - 1), 0.9)) if len(ratio) else 0.0,
        voiced=len(ratio),
        delay_ms=max(delays),
        cpu_ms=cpu_s / output_s * 1000,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report; 1 where a promise is broken."""
    parser = argparse.ArgumentParser(prog="python -m realtime.sound_report", description=__doc__.split("\n\n")[1])
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="speech, in the order it was spoken")
    files: list[Path] = parser.parse_args(arguments).files
    recordings = []
    for file in files:
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        recordings.append((np.ascontiguousarray(samples.mean(axis=1), np.float32), int(rate)))
    print(f"{'speed':>5} {'duration':>9} {'pitch':>7} {'p90':>6} {'places':>6} {'delay ms':>8} {'cpu ms/s':>8}")
    found = [figures(recordings, speed) for speed in SPEEDS]
    for row in found:
        print(
            f"{row.speed:5.2f} {row.duration_error:+9.3%} {row.pitch_bias:+7.2%} {row.pitch_p90:6.2%} {row.voiced:6d} "
            f"{row.delay_ms:8.1f} {row.cpu_ms:8.1f}{'  BROKEN' if row.broken else ''}"
        )
    levels = [loudness_lufs(samples, rate) for samples, rate in recordings]
    steps = [abs(after - before) for before, after in pairwise(levels)]
    for file, level in zip(files, levels, strict=True):
        print(f"{level:7.1f} LUFS  {file.name}")
    step = max(steps, default=0.0)
    print(f"loudness: standard deviation {np.std(levels):.2f} LU, largest step {step:.2f} LU")
    result = {"speeds": [asdict(row) for row in found], "lufs": levels, "largest_step_lu": step}
    print(json.dumps(result))
    return int(any(row.broken for row in found))


if __name__ == "__main__":
    sys.exit(main())

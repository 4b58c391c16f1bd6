"""Speech faster or slower at the same pitch: one stream, in pieces of any size, with one straight map between the two times.

Knows samples, a rate and a speed. Does not know packets, turns or text. Output is written in blocks of 10 ms. Block k is taken from the
input within 9 ms of where it belongs; it follows on from the block before as long as that place is near enough, and is else faded in from
the place near enough where the waveform, with some past and future, is most like what would have followed. So output sample i always
stands for input sample i * speed, give or take `MAX_SHIFT_S` and a block (at the start a little more), and nothing adds up.

Beyond plain WSOLA: fades are evened out by how alike their two sides are (a fade between unlike noises would sink by 3 dB a hundred times
a second), places in noise are drawn instead of searched where input is used more than once (the likeliest place repeats and buzzes), and
a burst is not played twice: the input is followed for up to 30 ms more until there is a place behind it. (At half speed and below a closure
of less than 20 ms can still be heard twice.)

Source: W. Verhelst, M. Roelands, "An overlap-add technique based on waveform similarity (WSOLA)", ICASSP 1993.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from random import Random

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # [n], mono

MIN_SPEED, MAX_SPEED = 0.25, 4.0  # the protocol's; at 4 a stop consonant of 40 ms has one block left

BLOCK_S = 0.010  # written at once and faded over; shorter fades roughen low voices, longer ones smear and double bursts
MAX_SHIFT_S = 0.009  # to either side: the range holds one period of any voice above 55 Hz. Wider costs delay and blurs the time map
CONTEXT_S = 0.010  # before a fade that must be alike too: with the fade itself two periods of 100 Hz, and no delay
# Further ahead where going back would play an onset twice: so much at speed 0.25, and we are past it.
MAX_HOLD_S = 0.030
# At a speed above 1 a stream starts with 30 ms as they are and catches up in the next 100: so a packet of 20 ms comes out of the first
# codec frame at any speed, as it does at 1 (else it comes with the second: measured 48 ms later at speed 2, on a CPU). The map is off by
# 17 ms of output there at speed 2, by 26 at 4.
HEAD_BLOCKS = 3
CATCH_UP_BLOCKS = 10
ONSET_DB = 12.0  # a change of level that is one; noise differs by 3 dB from one 5 ms to the next, a stop's burst by 20 and more
FLOOR_POWER = 1e-6  # -60 dB of full scale: below, differences of level are not heard
# Best correlation below this: nothing periodic. Voiced speech finds 0.8 and more, fricatives 0.1 to 0.4.
NOISE_LIKENESS = 0.5


@dataclass(frozen=True, slots=True)
class _Sizes:
    """In samples."""

    block: int
    shift: int
    hold: int
    context: int


def _sizes(rate: int) -> _Sizes:
    return _Sizes(
        block=ceil(BLOCK_S * rate),  # so that two blocks are a packet of 20 ms at any rate
        shift=round(MAX_SHIFT_S * rate),
        hold=round(MAX_HOLD_S * rate),
        context=round(CONTEXT_S * rate),
    )


class TimeStretch:
    """Plays one stream of samples at `speed`. However it is cut into pieces, the result is the same, to the bit.

    One owner, no locks; memory is bounded by some 60 ms (at speed 4) and the largest piece. A speed of 1 is not for here.
    """

    def __init__(self, rate: int, speed: float) -> None:
        """rate: Hz, 8000 or more. speed: output lasts 1/speed of the input. Raises ValueError for a speed out of range."""
        if not MIN_SPEED <= speed <= MAX_SPEED:
            raise ValueError(f"speed {speed} is outside {MIN_SPEED}..{MAX_SPEED}")
        self._speed = speed
        self._sizes = size = _sizes(rate)
        self._rise = ((np.arange(size.block) + 0.5) / size.block).astype(np.float32)
        self._rise = (np.sin(self._rise * np.float32(np.pi / 2)) ** 2).astype(np.float32)
        self._hop = size.block * speed  # input a block stands for
        self._draw = Random(0).random  # the same in every run
        self._blocks = 0  # written
        self._follow = 0  # input sample that follows the last one written
        # Input that may still be needed, from input sample _origin on. Before the stream there is silence.
        self._origin = -size.context
        self._held: Samples = np.zeros(-self._origin, np.float32)
        self._n_in = 0
        self._n_out = 0

    def push(self, samples: Samples) -> Samples:
        """Add float32 [n]; returns what is final now, float32 [m], m may be 0. Keeps no reference."""
        self._n_in += len(samples)
        self._held = np.concatenate((self._held, samples))
        return self._write(self._origin + len(self._held))

    def finish(self) -> Samples:
        """The rest, so that all output is round(n_in / speed) samples, or the head if that is more. Nothing may be pushed afterwards."""
        missing = round(self._n_in / self._speed) - self._n_out
        if missing <= 0:
            return np.zeros(0, np.float32)
        size = self._sizes
        blocks = ceil(missing / size.block)
        silence = ceil((blocks + 1) * self._hop) + 2 * size.shift + 4 * size.block
        self._held = np.concatenate((self._held, np.zeros(silence, np.float32)))
        return self._write(self._origin + len(self._held))[:missing]

    def _write(self, known: int) -> Samples:
        """Every block that needs no input sample from `known` on."""
        size, written = self._sizes, [np.zeros(0, np.float32)]
        while True:
            place = self._place()
            if self._needed(place) > known:
                break
            written.append(self._block(place))
            self._blocks += 1
        first = min(self._follow, max(0, place - size.shift)) - size.context
        if first > self._origin:
            self._held = self._held[first - self._origin :].copy()
            self._origin = first
        out = np.concatenate(written)
        self._n_out += len(out)
        return out

    def _place(self) -> int:
        """The input sample where the next block belongs."""
        size, block = self._sizes, self._blocks
        middle = (self._hop - size.block) / 2  # the middle of a block stands where the middle of its input stood
        if self._speed < 1:
            return max(0, round(block * self._hop + middle))
        late = max(0.0, HEAD_BLOCKS * (self._hop - size.block) + middle)  # behind the blocks that were not faster
        if block < HEAD_BLOCKS:
            return block * size.block
        return round(block * self._hop + middle - late * max(0.0, 1 - (block - HEAD_BLOCKS) / CATCH_UP_BLOCKS))

    def _needed(self, place: int) -> float:
        """How much input the next block takes."""
        size = self._sizes
        if self._blocks < HEAD_BLOCKS and self._speed > 1:
            return self._follow + size.block
        # Nothing later stands for input that has not come: the stream may end there.
        return max(place + size.shift + size.block, self._follow + size.block, (self._blocks + 1) * self._hop)

    def _block(self, place: int) -> Samples:
        """The next block, which belongs at input sample `place`."""
        size, follow = self._sizes, self._follow
        after = self._input(follow, size.block)
        if abs(follow - place) <= size.shift:
            self._follow = follow + size.block
            return after
        start, likeness = self._most_alike(follow, max(0, place - size.shift), place + size.shift)
        if likeness < NOISE_LIKENESS and self._speed < 1:
            drawn = self._drawn(follow, place)
            if drawn is None and abs(follow - place) <= size.shift + size.hold:
                self._follow = follow + size.block
                return after
            start = start if drawn is None else drawn
            likeness = _likeness(after, self._input(start, size.block))
        self._follow = start + size.block
        return self._fade(after, self._input(start, size.block), likeness)

    def _fade(self, before: Samples, after: Samples, likeness: float) -> Samples:
        """From one to the other; what is unlike adds up as power does, and no more than what is alike."""
        rise = self._rise
        fall = np.float32(1) - rise
        alike = np.float32(min(1.0, max(0.0, likeness)))
        power = rise * rise + fall * fall + np.float32(2) * alike * rise * fall
        faded: Samples = (before * fall + after * rise) / np.sqrt(power)
        return faded

    def _drawn(self, follow: int, place: int) -> int | None:
        """A place in noise near enough, different every time and the same in every run, from where the level stays about the same.

        To the end of the fade, that is. Where it does not, something would be heard twice that is not noise: the end of a sound, or its
        beginning. None: there is no such place.
        """
        size = self._sizes
        first, last, end = max(0, place - size.shift), place + size.shift, follow + size.block
        part = size.block // 4
        parts = (end - first) // part
        levels_db = self._levels_db(end - parts * part, parts)[::-1]  # backwards in time
        spread_db = np.maximum.accumulate(levels_db) - np.minimum.accumulate(levels_db)
        fitting = int(np.searchsorted(spread_db, ONSET_DB, side="right"))  # parts before the end; the spread only grows
        first = max(first, end - fitting * part)
        return first + round(self._draw() * (last - first)) if first <= last else None

    def _levels_db(self, start: int, parts: int) -> npt.NDArray[np.float64]:
        """Of so many quarters of a block, from input sample `start` on."""
        part = self._sizes.block // 4
        samples = self._input(start, parts * part).reshape(parts, part).astype(np.float64)
        levels: npt.NDArray[np.float64] = 10 * np.log10(np.mean(samples**2, axis=1) + FLOOR_POWER)
        return levels

    def _most_alike(self, follow: int, first: int, last: int) -> tuple[int, float]:
        """Where in first..last input goes on most like it does at `follow`, and how alike that is, -1 to 1."""
        size = self._sizes
        length = size.context + size.block
        pattern = self._input(follow - size.context, length)
        likenesses = _likenesses(pattern, self._input(first - size.context, length + last - first))
        best = int(np.argmax(likenesses))
        return first + best, float(likenesses[best])

    def _input(self, start: int, length: int) -> Samples:
        at = start - self._origin
        assert at >= 0 and at + length <= len(self._held), "input that is held"
        return self._held[at : at + length]


def _likenesses(pattern: Samples, searched: Samples) -> npt.NDArray[np.float64]:
    """Normalised correlation of the pattern with every stretch of its length in `searched`; 0 where either is silent."""
    size = 1 << (len(searched) - 1).bit_length()  # what wraps around falls on places where the pattern does not fit
    spectrum = np.fft.rfft(searched.astype(np.float64), size) * np.fft.rfft(pattern.astype(np.float64), size).conj()
    products = np.fft.irfft(spectrum, size)[: len(searched) - len(pattern) + 1]
    sums = np.concatenate((np.zeros(1), np.cumsum(searched.astype(np.float64) ** 2)))
    powers = sums[len(pattern) :] - sums[: -len(pattern)]
    own = float(np.sum(pattern.astype(np.float64) ** 2))
    scale = np.sqrt(np.maximum(powers * own, 1e-12))  # -120 dB: below, rounding decides
    likenesses: npt.NDArray[np.float64] = products / scale
    return likenesses


def _likeness(one: Samples, other: Samples) -> float:
    own, others = float(np.dot(one, one)), float(np.dot(other, other))
    return float(np.dot(one, other)) / sqrt(max(own * others, 1e-12))

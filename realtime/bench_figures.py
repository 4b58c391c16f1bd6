"""What one turn's record says: how long a listener waited, for whom, and whether the sound ever ran short.

The listener is simulated: it plays from the moment the first packet arrived, one sample after the other, and never waits on purpose.

* A sample is audible above -50 dBFS. Its time is that of its place in the sound, not that of the packet it came in: silence at the start of
  a turn is waiting, too.
* Waiting for text and waiting for the engine are told apart with the server's own segmenter, run over the same deltas at the same times: a
  segment's text is there with the delta that completes it (or when the idle rule lets it go). From then on it is the engine's turn.
* Short by: how late the latest packet was for a listener who never stops, that is how many milliseconds the listener should have waited
  at the start to hear no gap. Lateness that passes before the packet's segment had its text is the writer's, shifts the listener and is
  counted apart; where the server sent no word times, all of it is the engine's.

Does not know sockets or clocks: a record holds times in seconds of one monotonic clock. Pure.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.config import Latency, TagMode
from protocol.events import TurnDone
from realtime.segmenter import Segmenter

AUDIBLE_DBFS: Final = -50.0  # below it are dither, codec noise at rest and breath before speech
_AUDIBLE: Final = 10 ** (AUDIBLE_DBFS / 20)


@dataclass(frozen=True, slots=True)
class Delta:
    """Text as it was sent."""

    at: float  # s
    text: str


@dataclass(frozen=True, slots=True)
class Packet:
    """Audio as it arrived."""

    at: float  # s
    start_ms: float  # within the turn's audio
    end_ms: float


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """What a client saw of one turn that came to its end."""

    deltas: tuple[Delta, ...]
    ended_at: float  # s, turn.end was sent
    packets: tuple[Packet, ...]
    audible_ms: float | None  # place of the first audible sample in the turn's audio; None: there is none
    words: tuple[tuple[float, int], ...]  # (end_ms, char_start), ascending; empty: the server told none
    latency: Latency  # the session's
    done: TurnDone
    cancelled_at: float | None = None  # s, turn.cancel was sent
    done_at: float = 0.0  # s, turn.done arrived
    whole_text: bool = False  # nothing could be asked before all of the text was there


@dataclass(frozen=True, slots=True)
class Failure:
    """A turn that did not come to a proper end."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A turn that was not let in."""

    reason: str
    retry_after_s: float | None  # as the server told it


Outcome = TurnRecord | Failure | Refusal


@dataclass(frozen=True, slots=True)
class TurnFigures:
    """One turn in milliseconds."""

    audible_ms: float  # from the first delta to the first audible sample
    text_wait_ms: float  # of which until the first segment's text was there
    first_packet_ms: float  # from the first segment's text to the first packet, silent or not
    short_ms: float  # short by, the engine's part
    text_short_ms: float  # the writer's part
    audio_ms: float  # of speech, as the server sent it
    rtf: float | None  # real-time factor, as the server counts it; None if it did not say
    elapsed_ms: float  # from the first delta to the last packet
    underruns: int  # as the server counts them, to compare with short_ms
    cancel_ms: float | None  # from turn.cancel to turn.done; None: it was not cancelled

    @property
    def engine_wait_ms(self) -> float:
        """From the first segment's text to the first audible sample."""
        return self.audible_ms - self.text_wait_ms


def figures(record: TurnRecord) -> TurnFigures | None:
    """None where nothing audible came."""
    if not record.packets or record.audible_ms is None:
        return None
    begun = record.deltas[0].at
    if record.whole_text:
        texts = TextTimes([sum(len(delta.text) for delta in record.deltas)], [record.ended_at])
    else:
        texts = TextTimes.of(record.deltas, record.ended_at, record.latency)
    complete = texts.complete_at(0)
    listener = _Listener(lambda end_ms: _text_at(texts, record.words, end_ms))
    audible_at = begun
    for packet in record.packets:
        listener.receive(packet)
        if packet.start_ms <= record.audible_ms:  # the last one of these holds the sample
            audible_at = listener.hears_at(record.audible_ms)
    cancelled = record.cancelled_at is not None
    return TurnFigures(
        audible_ms=1000 * (audible_at - begun),
        text_wait_ms=1000 * (complete - begun),
        first_packet_ms=1000 * (record.packets[0].at - complete),
        short_ms=1000 * listener.short_s,
        text_short_ms=1000 * listener.text_short_s,
        audio_ms=float(record.done.sent_ms),
        rtf=record.done.metrics.rtf,
        elapsed_ms=1000 * (record.packets[-1].at - begun),
        underruns=record.done.metrics.underruns,
        cancel_ms=1000 * (record.done_at - (record.cancelled_at or 0.0)) if cancelled else None,
    )


def first_audible(samples: npt.NDArray[np.float32]) -> int | None:
    """Index of the first audible sample, in [-1, 1]; None: there is none."""
    audible = np.abs(samples) > _AUDIBLE
    return int(audible.argmax()) if audible.any() else None


class TextTimes:
    """When each character of a turn had come in a segment that could be spoken."""

    def __init__(self, ends: Sequence[int], times: Sequence[float]) -> None:
        self._ends = ends  # code points, ascending
        self._times = times  # s

    @classmethod
    def of(cls, deltas: Sequence[Delta], ended_at: float, latency: Latency) -> TextTimes:
        """Run the segmenter as a server with nothing left to play would: never later than the real one."""
        segmenter = Segmenter(latency, TagMode.PERFORM)
        ends: list[int] = []
        times: list[float] = []

        def take(at: float) -> None:
            for segment in segmenter.take(at, 0.0):
                ends.append(segment.end)
                times.append(at)

        for delta, following in zip(deltas, [*(delta.at for delta in deltas[1:]), ended_at], strict=True):
            segmenter.push(delta.text, delta.at)
            take(delta.at)
            while (due := segmenter.deadline(delta.at, 0.0)) is not None and due < following:
                taken = len(ends)
                take(due)
                if len(ends) == taken:
                    break
        segmenter.end()
        take(ended_at)
        return cls(ends, times)

    def complete_at(self, char: int) -> float:
        """When the segment with this character was complete, in s."""
        return self._times[min(bisect_right(self._ends, char), len(self._times) - 1)]


def _text_at(texts: TextTimes, words: Sequence[tuple[float, int]], end_ms: float) -> float:
    """When the text of a packet was there: of the word that is spoken at its end, or comes next, since a packet is sent when it is full."""
    if not words:
        return -math.inf
    return texts.complete_at(words[min(bisect_right(words, end_ms, key=lambda word: word[0]), len(words) - 1)][1])


class _Listener:
    """Plays without a pause from the first packet on; text that is not there yet makes it wait, audio that is late does not."""

    def __init__(self, text_at: Callable[[float], float]) -> None:
        self.short_s = 0.0  # how late the latest packet was
        self.text_short_s = 0.0  # how long there was no text to speak
        self._text_at = text_at  # end of a packet in ms -> when its text was there
        self._starts_at: float | None = None  # when the sample 0 was due, in s; grows with text_short_s

    def receive(self, packet: Packet) -> None:
        if self._starts_at is None:
            self._starts_at = packet.at - packet.start_ms / 1000
        due = self._starts_at + packet.start_ms / 1000
        late = packet.at - due
        if late <= 0:
            return
        without_text = min(late, max(0.0, self._text_at(packet.end_ms) - due))
        self._starts_at += without_text
        self.text_short_s += without_text
        self.short_s = max(self.short_s, late - without_text)

    def hears_at(self, place_ms: float) -> float:
        """When a sample of the packet that came last is heard, by a listener who does wait for late audio."""
        assert self._starts_at is not None, "a packet came"
        return self._starts_at + self.short_s + place_ms / 1000


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that `percent` of the values do not exceed (nearest rank): a value that occurred, never an interpolation."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


def in_share(values: Sequence[float], bound: float) -> float:
    """The share of values that do not exceed a bound, in [0, 1]."""
    return sum(value <= bound for value in values) / len(values) if values else math.nan

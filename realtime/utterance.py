"""What was generated of one turn so far, and what the conversation keeps of it when the turn is cut.

Knows the codes of each segment; the words' times are the timeline's. Does not know samples, packets, pacing or why the turn was cut. It
is kept for as long as the listener may still be playing: a completed turn can be cut too (protocol 6.8).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.api import SpokenSegment
from protocol.config import CutConfig, TagMode
from realtime.alignment import Timeline
from realtime.context import HeardSegment
from realtime.repertoire import EVERYTHING, Repertoire
from realtime.segmenter import Segment


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """What is left of a turn."""

    char_end: int  # code points of raw text that were heard
    kept_ms: float  # audio that later turns remember
    segments: tuple[HeardSegment, ...]


NOTHING = Cut(0, 0.0, ())


class Utterance:
    """The generated part of one turn. It only grows."""

    def __init__(self, tags: TagMode, frame_ms: float, rate: float, repertoire: Repertoire = EVERYTHING) -> None:
        """`rate`: `timeline.rate` of the turn before; 1 for the first."""
        self.timeline = Timeline(tags, frame_ms, rate, repertoire)
        self.frames = 0  # of the turn
        self._frame_ms = frame_ms
        self._tags = tags
        self._repertoire = repertoire
        self._codes: dict[int, list[npt.NDArray[np.int16]]] = {}  # start of its segment in the text -> [K] a frame

    @property
    def generated_ms(self) -> float:
        """Audio generated so far."""
        return self.frames * self._frame_ms

    def add(self, segment: Segment) -> None:
        """The next segment of the text, also one that cannot be spoken."""
        self.timeline.add_segment(segment)

    def frame(self, segment: Segment, codes: npt.NDArray[np.int16], place: int | None = None) -> None:
        """One frame, codes [K], of a segment; the segments before it have ended. place: see `Timeline.update`."""
        self._codes.setdefault(segment.start, []).append(codes)
        self.frames += 1
        self.timeline.update(self.generated_ms, place)

    def end(self, segment: Segment, sane_frames: int) -> None:
        """No frame of the segment follows; only its first `sane_frames` are speech."""
        frames = len(self._codes.get(segment.start, ()))
        self.timeline.finish_segment(frames * self._frame_ms, sane_frames * self._frame_ms)

    @property
    def left_out(self) -> int | None:
        """See `Timeline.left_out`."""
        return self.timeline.left_out()

    def part(self, segment: Segment, at: int) -> tuple[Segment, Segment]:
        """End the open segment at `left_out`, behind its start; what it is now, and what it left out, which is the next one."""
        head, rest = segment.parted(at, self._tags, self._repertoire)
        self.timeline.part_segment(head, rest)
        return head, rest

    def skip(self) -> None:
        """The next segment is not spoken."""
        self.timeline.skip_segment()

    def finish(self) -> None:
        """Nothing follows at all."""
        self.timeline.finish()

    def cut(self, raw: str, played_ms: float, rule: CutConfig) -> Cut:
        """What someone heard who heard `played_ms`. `raw`: the turn's input so far."""
        heard = self.timeline.heard(raw, played_ms, rule.snap, rule.min_heard)
        kept = []
        for part in heard.segments:
            codes = np.stack(self._codes[part.segment.start][: part.frames], axis=1)  # [K, T]
            chars = min(part.segment.end, heard.char_end) - part.segment.start
            kept.append(HeardSegment(SpokenSegment(part.text, codes), chars))
        frames = sum(part.frames for part in heard.segments)
        return Cut(heard.char_end, frames * self._frame_ms, tuple(kept))

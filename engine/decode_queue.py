"""Frames between the draw and their samples: given to the decoder one by one, or several of a stream together where nobody needs the first.

Knows what the decoder was given last and what is held back. Does not know why a frame may wait (`engine.core`).

A call of the decoder may cost the step beside it hardly less for one frame than for several. So while one stream speaks alone and its
listener has enough to play, its frames are held back until there are as many as a call takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.api import Samples
from engine.decoding import FrameDecoder
from engine.stream import OpenStream, Segment


@dataclass(frozen=True, slots=True, eq=False)
class DrawnFrame:
    """A frame that was drawn and has no samples yet."""

    stream: OpenStream
    segment: Segment
    codes: npt.NDArray[np.int16]  # [K]
    text_at: int | None  # see Frame


class DecodeQueue:
    """Frames in the order in which they were drawn. What is held back is of one stream."""

    def __init__(self, decoder: FrameDecoder) -> None:
        self.decoder = decoder
        self.started: Sequence[DrawnFrame] = ()
        self._held: list[DrawnFrame] = []

    def __bool__(self) -> bool:
        """Some have no samples yet."""
        return bool(self.started or self._held)

    @property
    def holding(self) -> OpenStream | None:
        """The stream whose frames are held back."""
        return self._held[0].stream if self._held else None

    def give(self, frames: Sequence[DrawnFrame], may_wait: bool) -> None:
        """What was drawn in a step, one of each stream; of that alone which `holding` names, if any. Nothing is started.

        may_wait: they may be held back; only one frame may.
        """
        self._held += frames
        if not may_wait or len(self._held) >= self.decoder.several:
            self.release()

    def release(self) -> None:
        """Start what is held back. Nothing is started."""
        held, self._held = self._held, []
        if not held:
            return
        rows = list(dict.fromkeys(frame.stream.row for frame in held))
        codes = np.stack([frame.codes for frame in held], axis=1)  # [K, B], or [K, T] of one row
        self.decoder.start(codes[None] if len(rows) == 1 else codes.T[:, :, None], rows)
        self.started = held

    def finish(self) -> Iterator[tuple[DrawnFrame, Samples]]:
        """What was started, with its samples [frame_samples], waiting for them."""
        started, self.started = self.started, ()
        if started:
            yield from zip(started, self.decoder.finish().reshape(len(started), -1), strict=True)

    def forget(self, stream: OpenStream) -> None:
        """It is over: somebody else may have its row soon."""
        self._held = [frame for frame in self._held if frame.stream is not stream]

"""One turn inside the core: what it has said, what it is at, what its listener still has to play.

Knows a stream's own state and nothing that it shares with others. Does not know what is computed when (`engine.core`,
`engine.scheduler`), or caches.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.api import Codes, SamplingParams
from engine.following import Follower
from engine.gaze import Look, TextSpan
from engine.guard import SegmentGuard
from engine.kv import CachedSequence, Columns
from engine.pace import Held
from engine.scheduler import View

KEPT = 0.6  # of the speech worth remembering, once there is more: what remains is prefilled anew, so forgetting must be rare


@dataclass(slots=True)
class Segment:
    """One attempt at the segment that is being generated."""

    index: int
    text: str
    guard: SegmentGuard
    attempt: int = 0
    # Where its text stands in the prompt, once it has one.
    span: TextSpan = field(default_factory=lambda: TextSpan(0, 0))
    follower: Follower | None = None  # None: its text has no token
    frames: list[npt.NDArray[np.int16]] = field(default_factory=list)  # codes [K] of the frames delivered

    def follow(self, look: Look | None) -> int | None:
        """The code point of the text that a frame speaks, of what its chosen heads looked at; call it for every frame that is drawn."""
        return None if look is None or self.follower is None else self.follower.step(look)

    def codes(self, frames: int) -> Codes:
        """Of the first so many frames, at least one."""
        return np.stack(self.frames[:frames], axis=1)


@dataclass(slots=True)
class OpenStream:
    """One turn. It is dropped whole; nothing in it is ever reset."""

    key: int
    row: int  # of the runner's per-row state
    conversation: str
    voice: str
    params: SamplingParams
    # Prompt pieces before the current segment: system, then user and spoken of each segment of history and turn.
    past: list[Columns]
    most: int  # positions of speech worth remembering
    opened_s: float = 0.0
    texts: deque[str] = field(default_factory=deque)  # segments not begun
    begun: int = 0  # segments begun
    finished: bool = False  # no text follows
    segment: Segment | None = None
    target: Columns | None = None  # prompt being prefilled; None once it is complete
    sequence: CachedSequence | None = None  # the cache's, and the stream's own to extend
    column: Columns | None = None  # [K + 1, 1]: the last frame, fed by the next decode step
    frames: int = 0  # delivered in the turn
    ahead: int = 0  # drawn and not delivered yet: being decoded
    allowed: int = 0  # credit: frames below this index may be generated
    sane: bool = False  # something worth hearing was delivered
    waiting_since_s: float = 0.0  # when its current work became possible
    heard_since_s: float | None = None  # when its first frame was heard, moved on by all that the listener waited since

    @property
    def missing(self) -> int:
        """Prompt positions still to be computed."""
        return 0 if self.target is None else int(self.target.shape[1]) - self.extendable.length

    @property
    def prefix(self) -> int:
        """Positions of the system message."""
        return int(self.past[0].shape[1])

    @property
    def held(self) -> Held:
        """What it has of the cache, or will have as soon as its prompt is complete."""
        return Held(self.voice, self.prefix, self.extendable.length + self.missing - self.prefix)

    @property
    def extendable(self) -> CachedSequence:
        """The sequence of a stream that was given one."""
        assert self.sequence is not None, "an open stream has a sequence"
        return self.sequence

    @property
    def current(self) -> Segment:
        """The segment of a stream that is generating one."""
        assert self.segment is not None, "frames are drawn for a segment"
        return self.segment

    @property
    def has_credit(self) -> bool:
        """It may generate another frame."""
        return self.frames + self.ahead < min(self.allowed, self.params.max_frames)

    def view(self, now: float, frame_s: float) -> View | None:
        """What the scheduler should know, or None while there is nothing to do: no text, or no credit, and history is prefilled."""
        if not (self.missing if self.segment is None else self.has_credit):
            return None
        return View(self.key, self.missing, self.waiting_since_s, self.lead_s(now, frame_s))

    def lead_s(self, now: float, frame_s: float) -> float | None:
        """Audio delivered and not yet heard by a listener who plays it as it comes; negative: how long that one has been waiting."""
        return None if self.heard_since_s is None else self.frames * frame_s - (now - self.heard_since_s)

    def forgive(self, now: float, frame_s: float) -> None:
        """The listener who has run dry plays on from now, when a frame, credit or text comes: nobody has to catch up with a gap."""
        if self.heard_since_s is not None:
            self.heard_since_s = max(self.heard_since_s, now - self.frames * frame_s)

    def remember(self, asked: Columns, said: Columns) -> None:
        """A finished segment joins the past. Where that is more than is worth remembering, the oldest segments go.

        So a turn may last for ever, with its voice, which is the system message, and its cache bounded.
        """
        self.past += [asked, said]
        pairs = list(zip(self.past[1::2], self.past[2::2], strict=True))
        left = sum(spoken.shape[1] for _, spoken in pairs)
        if left > self.most:
            while len(pairs) > 1 and left > KEPT * self.most:
                left -= pairs.pop(0)[1].shape[1]
            self.past[1:] = [piece for pair in pairs for piece in pair]

    def draw(self, column: Columns) -> None:
        """Count a frame of the current segment that was drawn; the next one may be computed from it."""
        self.ahead += 1
        self.column = column

    def deliver(self, codes: npt.NDArray[np.int16], now: float, frame_s: float) -> None:
        """Count a frame of the current segment that is on its way to the listener."""
        self.forgive(now, frame_s)
        self.current.frames.append(codes)
        self.frames += 1
        if self.heard_since_s is None:
            self.heard_since_s = now

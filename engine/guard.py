"""When is what the model produced not speech? Bounds per segment, on numbers alone.

Knows how many frames a text can reasonably take and what a broken frame looks like. Does not know tensors, retries or what was sent:
the core asks after each frame and decides. The failures it looks for are the ones that users of this model family report: an end at
once (sglang-omni#370: 46 ms of audio with a success), runs that never end (sglang-omni#235, 9 of 1088 prompts), NaN, dead air.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum

import numpy as np

from engine.api import Samples

# A tag or a speaker token is not spoken; one that names a pause makes silence legitimate.
_MARKUP = re.compile(r"<\|speaker:\d+\|>|\[[^\[\]\n]{1,80}\]")
_PAUSE = re.compile(r"\[[^\]]*(paus|silen|break|wait|breath|sigh|inhal|exhal)[^\]]*\]", re.IGNORECASE)

SILENT_PEAK = 1e-3  # -60 dB: the codec's idle noise is below it, a whisper's quietest frame above
SLOWEST_S_PER_UNIT = (
    0.45  # a drawled, letter-by-letter reading takes 0.3 s a letter; twice the usual slow rate of speech
)
FASTEST_S_PER_UNIT = 0.012  # five times faster than an auctioneer: an end before that is not a reading of the text
SLACK_S = 3.0  # laughs, sighs, pauses: bounded, but free
DEAD_AIR_S = 1.5  # longer than any rhetorical pause that was not asked for


class Fault(Enum):
    """Why output is not sane."""

    EMPTY = "empty"  # the end token came first
    SHORT = "short"  # the end token came before the text can have been read
    RUNAWAY = "runaway"  # longer than the slowest reading of the text
    NAN = "nan"
    SILENCE = "silence"


def spoken_units(text: str) -> float:
    """How much there is to say, in letters: a CJK character or a digit counts as several, markup and punctuation as none."""
    units = 0.0
    for character in _MARKUP.sub("", text):
        category = unicodedata.category(character)
        if category[0] == "N":
            units += 4.0  # "7" is read as "seven"
        elif category == "Lo":
            units += 3.0  # one syllable or more
        elif category[0] in "LS":
            units += 1.0
    return units


@dataclass(slots=True)
class SegmentGuard:
    """Watches one segment from its first frame to its end."""

    frame_s: float  # duration of a frame in seconds
    least_frames: int  # fewer are not a reading of the text
    most_frames: int  # more are not either
    pause_wanted: bool  # the text asks for silence
    frames: int = 0  # seen so far
    sane_frames: int = 0  # of these, up to the last one that belongs to speech

    @classmethod
    def of(cls, text: str, frame_s: float) -> SegmentGuard:
        """Bounds for a segment's text as the engine got it."""
        units = spoken_units(text)
        return cls(
            frame_s=frame_s,
            least_frames=int(units * FASTEST_S_PER_UNIT / frame_s),
            most_frames=int((units * SLOWEST_S_PER_UNIT + SLACK_S) / frame_s),
            pause_wanted=_PAUSE.search(text) is not None,
        )

    def frame(self, samples: Samples) -> Fault | None:
        """Take one generated frame. A fault means: the segment ends before this frame; `sane_frames` says where."""
        if not np.isfinite(samples).all():
            return Fault.NAN
        if self.frames >= self.most_frames:
            return Fault.RUNAWAY
        self.frames += 1
        if float(np.abs(samples).max()) > SILENT_PEAK or self.pause_wanted:
            self.sane_frames = self.frames
        elif (self.frames - self.sane_frames) * self.frame_s > DEAD_AIR_S:
            return Fault.SILENCE
        return None

    def end(self) -> Fault | None:
        """The model ended the segment. Trailing silence below the bound is part of it."""
        if self.frames == 0:
            return Fault.EMPTY
        if self.frames < self.least_frames:
            return Fault.SHORT
        if self.sane_frames == 0:
            return Fault.SILENCE
        self.sane_frames = self.frames
        return None

"""When is what the model produced not speech? Bounds per segment, on numbers alone.

Knows how long a text can reasonably take and what a broken frame looks like. Does not know tensors, retries or what was sent: the core
asks after each frame and decides. The failures it looks for are the ones that users of this model family report: an end at once
(sglang-omni#370: 46 ms of audio with a success), runs that never end (sglang-omni#235, 9 of 1088 prompts), NaN, dead air.
"""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass
from enum import Enum

import numpy as np

from engine.api import Samples

# A tag or a speaker token is not spoken; one that names a pause makes silence legitimate.
_MARKUP = re.compile(r"<\|speaker:\d+\|>|\[[^\[\]\n]{1,80}\]")
_PAUSE = re.compile(r"\[[^\]]*(paus|silen|break|wait|breath|sigh|inhal|exhal)[^\]]*\]", re.IGNORECASE)
_TAG = re.compile(r"\[[^\[\]\n]{1,80}\]")
_HESITATION = re.compile(r"\.\.\.|…|\n\s*\n")
_WORD = re.compile(r"[^\W\d_]+")
_VOWEL = re.compile(r"[aeiouyà-öø-ÿ]", re.IGNORECASE)

SILENT_PEAK = 1e-3  # -60 dB: the codec's idle noise is below it, a whisper's quietest frame above
# espeak-ng's slowest reading (80 words a minute) of forty texts in thirteen languages stays within the bounds that follow by a tenth at
# least, its fastest (450) above them by as much. At its usual rate a text takes a quarter of what it may.
SLOWEST_S_PER_LETTER = 0.22
FASTEST_S_PER_LETTER = 0.012  # four times faster than an auctioneer: an end before that is not a reading of the text
SLACK_S = 3.0  # of any segment, and again for each of its tags: laughs, sighs and pauses are bounded, but free
DEAD_AIR_S = 1.5  # longer than any rhetorical pause that was not asked for
STUCK_S = 2.0  # at one place of the text, where the model tells it; the mini, slow, whispering or in German, stays 0.65 at most
LINGER_S = 0.6  # of that, what may have been the rest of the word
HESITATION_S = 3.0  # the same where dots or an empty line suggest a pause

# What a character takes to read, in Latin letters: at least, at most.
_LETTER = (1, 1)
_SPELLED = (1, 2)  # a letter of "WWW", "http" or "x"
_VOWELLESS = (1, 2)  # of a script that leaves vowels out or stacks them on letters: Arabic, Thai, Devanagari
_SYLLABLE = (3, 5)  # an ideograph, a kana, a Hangul syllable
_DIGIT = (1, 5)  # "7" is "seven", but "1000000" has two words
_SIGN = (0, 4)  # "dot" in "a.b", "plus": often not read at all
_REST = (0, 2)  # a breath at a comma, a bracket or a full stop
_UNREAD = (0, 0)


class Fault(Enum):
    """Why output is not sane."""

    EMPTY = "empty"  # the end token came first
    SHORT = "short"  # the end token came before the text can have been read
    RUNAWAY = "runaway"  # longer than the slowest reading of the text, or of the place that it is at
    NAN = "nan"
    SILENCE = "silence"


def reading_s(text: str) -> tuple[float, float]:
    """Seconds that the fastest and the slowest reading of a text take. The first is 0 exactly where nothing in it is spoken."""
    spoken, tags = _MARKUP.sub(" ", text), sum(found[0][0] == "[" for found in _MARKUP.finditer(text))
    spelled = {i for word in _WORD.finditer(spoken) if _is_spelled(word[0]) for i in range(*word.span())}
    takes = [_reading(spoken, i, i in spelled) for i in range(len(spoken))]
    least, most = (sum(counts) for counts in zip(*takes, strict=True)) if takes else (0, 0)
    return least * FASTEST_S_PER_LETTER, most * SLOWEST_S_PER_LETTER + SLACK_S * (1 + tags)


def _is_spelled(word: str) -> bool:
    if not word.isascii():
        return False
    return len(word) < 3 or word.isupper() or not _VOWEL.search(word)


def _reading(text: str, at: int, spelled: bool) -> tuple[int, int]:
    character = text[at]
    category = unicodedata.category(character)
    if category[0] == "N":
        return _DIGIT
    if category == "Lo":
        return _SYLLABLE if _is_syllable(ord(character)) else _VOWELLESS
    if category[0] == "L":
        return _SPELLED if spelled else _LETTER
    inside = 0 < at < len(text) - 1 and not text[at - 1].isspace() and not text[at + 1].isspace()
    if category[0] == "S" or (category[0] == "P" and inside):
        return _SIGN
    return _REST if category[0] == "P" else _UNREAD


def _is_syllable(code: int) -> bool:
    """Ideographs, kana and Hangul: East Asian blocks and the planes of rare ideographs."""
    return 0x2E80 <= code <= 0xA4CF or 0xAC00 <= code <= 0xD7AF or 0xF900 <= code <= 0xFAFF or code >= 0x20000


@dataclass(slots=True)
class SegmentGuard:
    """Watches one segment from its first frame to its end."""

    frame_s: float  # duration of a frame in seconds
    least_frames: int  # fewer are not a reading of the text
    most_frames: int  # more are not either
    wanted: bool  # there are words in the text; without ("[laugh]") silence, or nothing at all, is no failure
    patience_s: float  # silence that may pass for a pause; infinite where one was asked for
    stuck_s: float  # without getting on in the text; the same
    frames: int = 0  # seen so far
    _sounded: int = 0  # of these, up to the last one that was not silent
    _place: int = -1  # in the text, code point
    _placed: int = 0  # frames when it came there

    @classmethod
    def of(cls, text: str, frame_s: float) -> SegmentGuard:
        """Bounds for a segment's text as the engine got it."""
        fastest, slowest = reading_s(text)
        patience_s = DEAD_AIR_S
        if _PAUSE.search(text):
            patience_s = math.inf
        elif _HESITATION.search(text):
            patience_s = HESITATION_S
        stuck_s = math.inf if math.isinf(patience_s) else STUCK_S + SLACK_S * len(_TAG.findall(text))
        return cls(frame_s, int(fastest / frame_s), int(slowest / frame_s), fastest > 0, patience_s, stuck_s)

    @property
    def sane_frames(self) -> int:
        """Frames up to the last one that belongs to speech. Silence belongs to it where a pause was asked for, beside words."""
        asked_for = math.isinf(self.patience_s) and (self._sounded > 0 or not self.wanted)
        return self.frames if asked_for else self._sounded

    def frame(self, samples: Samples, text_at: int | None = None) -> Fault | None:
        """Take one generated frame. A fault means: the segment ends before this frame; `sane_frames` says where.

        text_at: the code point that it speaks, where the model tells; it never falls.
        """
        if not np.isfinite(samples).all():
            return Fault.NAN
        if self.frames >= self.most_frames:
            return Fault.RUNAWAY
        if text_at is not None and self._is_stuck(text_at):
            self._sounded = min(self._sounded, self._placed + round(LINGER_S / self.frame_s))
            return Fault.RUNAWAY
        self.frames += 1
        if float(np.abs(samples).max()) > SILENT_PEAK:
            self._sounded = self.frames
        elif (self.frames - self._sounded) * self.frame_s > self.patience_s:
            return Fault.SILENCE
        return None

    def _is_stuck(self, text_at: int) -> bool:
        if text_at > self._place:
            self._place, self._placed = text_at, self.frames
        return (self.frames - self._placed) * self.frame_s > self.stuck_s

    def end(self) -> Fault | None:
        """The model ended the segment. Trailing silence below the bound is part of it."""
        if self.frames == 0:
            return Fault.EMPTY
        if self.frames < self.least_frames:
            return Fault.SHORT
        if self.wanted and not self._sounded:
            return Fault.SILENCE
        self._sounded = self.frames
        return None

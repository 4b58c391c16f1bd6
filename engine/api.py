"""The engine as its callers see it: values that go in, events that come out, and the errors between.

Knows shapes, units and who may call what. Does not know torch, sockets, sessions or audio formats, so that the server and its tests
run without a model. Two engines implement it: `engine.process.EngineProcess` (a process of its own, the way it is served) and
`engine.inprocess.InProcessEngine` (a thread, for tests and small tools).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int16]  # [codebooks, frames]; row 0 is the semantic codebook
Samples = npt.NDArray[np.float32]  # [n], mono, in [-1, 1], at the engine's sample_rate


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are drawn. The defaults are the protocol's."""

    temperature: float = 0.8  # > 0; divides the logits of what the filters left
    top_p: float = 0.9  # in (0, 1]; mass kept, measured before the temperature (as the reference does)
    top_k: int = 30  # >= 1; 1 is greedy
    repetition_penalty: float = 1.0  # >= 1; over the last 16 semantic tokens
    seed: int = 0  # with the turn number it fixes every draw
    max_frames: int = 2048  # a turn never gets longer than this many frames


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """One recording that a voice is conditioned on."""

    text: str  # its transcript; `<|speaker:i|>` tokens are kept where it has them
    codes: Codes  # [K, T]


@dataclass(frozen=True, slots=True, eq=False)
class Voice:
    """Immutable conditioning. Two voices with the same id are the same voice: the id is a cache key."""

    id: str
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class SpokenSegment:
    """One user/assistant pair of the prompt that was heard: what was asked for and the codes that were heard."""

    text: str  # as the engine got it (restored tags and speaker tokens included)
    codes: Codes  # [K, T], T >= 1


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """A cache key and the whole history. An engine without a cached state for `id` rebuilds it from `history`."""

    id: str
    history: tuple[SpokenSegment, ...] = ()
    # How many seconds of speech may be remembered while a turn goes on, at segment borders and beside the last segment; None: as much as
    # the checkpoint is good for. `history` itself is not trimmed.
    max_s: float | None = None


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the engine could take on now."""

    streams: int  # open streams
    max_streams: int
    own: int  # of those, how many belong to the caller's process, where several share the engine


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What was loaded, for start-up lines, `/v1/models` and clients."""

    name: str  # as asked for: `mini`, a repository id, a folder
    sample_rate: int  # Hz, of Frame.samples
    frame_samples: int  # samples a frame
    codebooks: int
    max_history_s: float  # how much heard speech the checkpoint is good for
    attribution: str | None = None  # notice that must be shown with it, or None
    device: str = "cpu"  # what it runs on
    dtype: str = "float32"  # of the AR stacks
    codec_id: str = "codec"  # equal where codes mean the same sound; letters, digits and - only
    scripts: tuple[str, ...] | None = None  # that it can read aloud, as Unicode names them; None: it takes every text
    # That a frame takes at least: its weights' bytes over the bandwidth of a copy; None: not known.
    roof_s: float | None = None
    numbers_in_words: bool = False  # its folder says that digits and symbols must reach it written out

    @property
    def frame_s(self) -> float:
        """Duration of one frame in seconds."""
        return self.frame_samples / self.sample_rate


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One codec step."""

    segment: int  # index of the pushed segment, from 0
    index: int  # frame index within the turn, from 0, without gaps
    codes: npt.NDArray[np.int16]  # [K]
    samples: Samples  # [frame_samples]
    # Code point of the segment's text that it speaks, by the model's own attention; None: the checkpoint has no chosen heads. It is known
    # as the frame is made and may be taken back by a later frame's, which is then further left.
    text_at: int | None = None


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """No frame of this segment follows."""

    segment: int
    frames: int  # its first so many frames are speech and belong to the history; fewer than delivered where dead air was noticed late
    # Why it was ended before the model ended it ("runaway", "silence", "nan", "length"), or why what the model made of it cannot be all
    # ("empty", "short"). None: all is well.
    cut: str | None = None


@dataclass(frozen=True, slots=True)
class SegmentRetried:
    """The segment came out degenerate before any of it was sent and is being generated again with another seed."""

    segment: int
    why: str


StreamEvent = Frame | SegmentEnd | SegmentRetried


class EngineError(Exception):
    """Base of what a stream's iterator and the engine's calls raise."""


@dataclass
class Busy(EngineError):
    """Every stream is taken; ask again later."""

    retry_after_s: float = 1.0

    def __str__(self) -> str:
        return f"the engine has no free stream; retry after {self.retry_after_s:g} s"


@dataclass
class EngineDied(EngineError):
    """The engine's process ended under this stream. The next `open` works once it has restarted."""

    detail: str = ""

    def __str__(self) -> str:
        return f"the engine process ended{': ' + self.detail if self.detail else ''}"


@dataclass
class SynthesisFailed(EngineError):
    """Nothing sane came out for a segment, or its input cannot be spoken."""

    code: str  # "degenerate" | "too_long" | "out_of_memory" | "bad_input" | "bad_audio" | "bad_codes"
    detail: str

    def __str__(self) -> str:
        return self.detail


class Stream(Protocol):
    """One turn inside the engine. Every call returns at once; all calls come from the thread of the event loop."""

    def push(self, segment: str) -> None:
        """Add a segment, not empty: spoken after those before it, in the same voice and codec state."""

    def finish(self) -> None:
        """No segment follows; the iterator ends after the last one's SegmentEnd."""

    def allow(self, frame_index: int) -> None:
        """Credit: frames with an index below `frame_index` may be generated. It only grows; it starts at 0."""

    def cancel(self) -> None:
        """Stop. Idempotent; the row is free within one step and the iterator ends without another event."""

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        """Events in order; one consumer. Raises EngineError at most once, and ends."""


class Engine(Protocol):
    """The model with its caches. All calls come from the thread of one event loop."""

    @property
    def info(self) -> ModelInfo:
        """What is loaded; constant."""

    def capacity(self) -> Capacity:
        """How many streams are open, and may be."""

    def prefetch(self, conversation: Conversation, voice: Voice) -> None:
        """Prefill voice and history now, so that a stream opened later starts with its own text. A hint: may do nothing under load."""

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> Stream:
        """A stream for turn number `turn` of the conversation. At most one per conversation id at a time. Raises Busy."""

    def forget(self, conversation_id: str) -> None:
        """Drop what is cached for a conversation that will not speak again; if it speaks now, then at the end of that."""

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        """Codes [K, T] of a recording, mono, at most ten minutes. Cancelling it stops the work.

        Raises SynthesisFailed for one that cannot be encoded, Busy while too many jobs wait, EngineDied.
        """

    async def decode(self, codes: Codes) -> Samples:
        """Samples [T * frame_samples] of codes [K, T]; an index beyond its codebook counts as the last one. Errors as in `encode`."""


class Admission(Enum):
    """What bounds the streams that are let in."""

    ROWS = "rows"  # max_streams
    # And what the device carries in real time, by the times of its steps and the room of its cache.
    MEASURED = "measured"


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Sizes fixed when an engine starts."""

    max_streams: int = 8  # rows of a step
    kv_positions: int = 32768  # positions of KV in the pool, over all conversations
    threads: int | None = None  # CPU threads; None: half the machine, at most four
    # None: measured on a GPU. On a CPU step times are mostly the noise of other processes, and would refuse a second listener on a laptop
    # that is busy for a minute.
    admission: Admission | None = None

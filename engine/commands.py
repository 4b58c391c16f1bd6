"""What crosses between an engine's front (in the server) and its core (in the engine process): plain frozen values.

Commands go in before a step, one `Report` comes out after it and is never changed again, so that a thread or a pipe may carry them.
What may be large (recordings and the results of jobs) crosses in pieces, so that no command waits behind it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engine.api import (
    Codes,
    Conversation,
    EngineDied,
    EngineError,
    EngineLimits,
    Frame,
    ModelInfo,
    Samples,
    SamplingParams,
    StreamEvent,
    Voice,
)


@dataclass(frozen=True, slots=True)
class Open:
    """A stream begins. `stream` is unique for the life of the front."""

    stream: int
    conversation: Conversation
    voice: Voice
    params: SamplingParams
    turn: int


@dataclass(frozen=True, slots=True)
class Push:
    """The next segment of a stream."""

    stream: int
    text: str


@dataclass(frozen=True, slots=True)
class Finish:
    """No segment follows."""

    stream: int


@dataclass(frozen=True, slots=True)
class Allow:
    """Frames below `frame_index` may be generated."""

    stream: int
    frame_index: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drop the stream; nothing is reported for it any more."""

    stream: int


@dataclass(frozen=True, slots=True)
class Prefetch:
    """Prefill voice and history when nothing more urgent is to be done."""

    conversation: Conversation
    voice: Voice


@dataclass(frozen=True, slots=True)
class Forget:
    """The conversation will not speak again."""

    conversation: str


@dataclass(frozen=True, slots=True)
class Encode:
    """Recording -> codes. The recording follows in pieces; one of no samples never begins."""

    job: int
    sample_rate: int  # Hz
    samples: int  # how many will follow


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """The next samples of a job's recording."""

    job: int
    samples: Samples


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """Codes -> samples."""

    job: int
    codes: Codes


@dataclass(frozen=True, slots=True)
class Abandon:
    """Nobody waits for this job any more."""

    job: int


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What an engine process loads."""

    folder: Path
    name: str
    device: str  # torch device: "cpu", "cuda", "cuda:1"; "auto" takes a GPU where there is one
    dtype: str  # of the AR stacks: "float32" | "bfloat16" | "float16", "auto" by device; the codec is float32
    limits: EngineLimits
    attribution: str | None
    guarded: bool = True  # watch for degenerate output; see EngineCore
    quantize: str | None = None  # format of the slow stack's matrices, see engine.quantize; None: the model's dtype


Job = Encode | Recording | Decode | Abandon
Command = Open | Push | Finish | Allow | Cancel | Prefetch | Forget | Job


@dataclass(frozen=True, slots=True)
class Ended:
    """Last word about a stream that was not cancelled: its text is spoken, or `error` says why not."""

    error: EngineError | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """What the device can take on, as its steps have shown."""

    carries: int  # streams in real time, at least one
    retry_s: float  # when one of those that are open will probably be over


_PackedEvent = StreamEvent | Ended | tuple[int, int, int | None]  # of a frame: segment, index and text_at
# State of a Report.
_Packed = tuple[
    list[tuple[int, _PackedEvent]],
    npt.NDArray[np.int16] | None,  # codes [frames, K]
    npt.NDArray[np.float32] | None,  # samples [frames, frame_samples]
    list[tuple[int, Codes | Samples]],
    dict[int, EngineError | None],
    Load | None,
]


@dataclass(slots=True)
class Report:
    """Everything that one step has to say."""

    events: list[tuple[int, StreamEvent | Ended]] = field(default_factory=list)  # (stream, event) in order
    pieces: list[tuple[int, Codes | Samples]] = field(default_factory=list)  # (job, part of its result)
    done: dict[int, EngineError | None] = field(default_factory=dict)  # jobs that are over, and why without success
    load: Load | None = None  # None: not known yet; by itself no reason to send a report

    def __bool__(self) -> bool:
        return bool(self.events or self.pieces or self.done)

    def __getstate__(self) -> _Packed:
        """Frames side by side in two arrays: an array has an overhead of its own, 7 ms for the frames of 256 streams."""
        frames = [event for _, event in self.events if isinstance(event, Frame)]
        events: list[tuple[int, _PackedEvent]] = [
            (stream, (event.segment, event.index, event.text_at) if isinstance(event, Frame) else event)
            for stream, event in self.events
        ]
        codes = np.stack([frame.codes for frame in frames]) if frames else None
        samples = np.stack([frame.samples for frame in frames]) if frames else None
        return events, codes, samples, self.pieces, self.done, self.load

    def __setstate__(self, state: _Packed) -> None:
        events, codes, samples, self.pieces, self.done, self.load = state
        # Copies, as a frame that is kept must not keep those of all other streams.
        each = iter(() if codes is None or samples is None else zip(codes, samples, strict=True))
        self.events = []
        for stream, event in events:
            if isinstance(event, tuple):
                segment, index, text_at = event
                own_codes, own_samples = next(each)
                event = Frame(segment, index, own_codes.copy(), own_samples.copy(), text_at)
            self.events.append((stream, event))


@dataclass(frozen=True, slots=True)
class Ready:
    """The core is loaded and warm."""

    info: ModelInfo


@dataclass(frozen=True, slots=True)
class Failed:
    """The core could not be built, or cannot go on; the text is for a person. Nothing follows."""

    detail: str


@dataclass(frozen=True, slots=True)
class Died:
    """To the fronts of several processes: the engine is gone, and so is whatever they had open; another one is being started."""

    error: EngineDied


@dataclass(frozen=True, slots=True)
class Mourned:
    """Answer to Died: what follows was asked for afterwards. What came before it and crossed the news is open no more."""

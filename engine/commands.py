"""What crosses between an engine's front (in the server) and its core (in the engine process): plain frozen values.

One list of commands goes in before a step, one `Report` comes out after it. Immutable, so that a thread or a pipe may carry them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from engine.api import (
    Codes,
    Conversation,
    EngineError,
    EngineLimits,
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


@dataclass(frozen=True, slots=True, eq=False)
class Encode:
    """Recording -> codes; answered by `Report.results[job]`."""

    job: int
    samples: Samples
    sample_rate: int


@dataclass(frozen=True, slots=True, eq=False)
class Decode:
    """Codes -> samples; answered by `Report.results[job]`."""

    job: int
    codes: Codes


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


Command = Open | Push | Finish | Allow | Cancel | Prefetch | Forget | Encode | Decode


@dataclass(frozen=True, slots=True)
class Ended:
    """Last word about a stream that was not cancelled: its text is spoken, or `error` says why not."""

    error: EngineError | None = None


@dataclass(slots=True)
class Report:
    """Everything that one step has to say."""

    events: list[tuple[int, StreamEvent | Ended]] = field(default_factory=list)  # (stream, event) in order
    results: dict[int, Codes | Samples | EngineError] = field(default_factory=dict)  # by job

    def __bool__(self) -> bool:
        return bool(self.events or self.results)


@dataclass(frozen=True, slots=True)
class Ready:
    """The core is loaded and warm."""

    info: ModelInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """The core could not be built; the text is for a person."""

    detail: str

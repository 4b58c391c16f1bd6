"""Codes of frames to their samples, in two calls, so that something else can be done between them.

Knows the two calls and the decoder that works inside the first. Does not know who waits for the samples. The other decoder, which works
in a process beside this one, is `engine.codec_process`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from engine.api import Samples
from engine.streaming import StreamingCodec


class FrameDecoder(Protocol):
    """The next frames of any of its rows, each with a state of its own."""

    @property
    def beside(self) -> bool:
        """Whether it works while the caller does something else. If not, waiting before `finish` only delays the samples."""

    @property
    def several(self) -> int:
        """Frames of one row that a call takes for hardly more than one of them."""

    def start(self, codes: npt.NDArray[np.int16], rows: Sequence[int]) -> None:
        """Begin the next T frames of each named row. codes: [B, K, T]. rows: B distinct numbers. `finish` must follow before the next."""

    def is_done(self) -> bool:
        """Whether `finish` would hardly wait for what was started."""

    def finish(self) -> Samples:
        """Samples [B, T * frame_samples] of what was started, waiting for them."""

    def reset(self, row: int) -> None:
        """Start a new stream in `row`. May be called between start and finish: what was started does not notice."""

    def close(self) -> None:
        """Nothing follows."""


class InlineDecoder:
    """Decodes where it is called. On a GPU `start` only queues the work."""

    beside, several = False, 1

    def __init__(self, codec: StreamingCodec, device: torch.device) -> None:
        self._codec = codec
        self._device = device
        self._wave = torch.zeros(0)

    def start(self, codes: npt.NDArray[np.int16], rows: Sequence[int]) -> None:
        index = torch.from_numpy(codes.astype(np.int64)).to(self._device)
        self._wave = self._codec.step(index, rows)

    def is_done(self) -> bool:
        return True  # as good as: nobody works beside it

    def finish(self) -> Samples:
        samples: Samples = self._wave.cpu().numpy()
        return samples

    def reset(self, row: int) -> None:
        self._codec.reset(row)

    def close(self) -> None:
        pass

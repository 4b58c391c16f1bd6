"""What every streaming encoder has in common: samples are checked, headers come first, the end comes once.

Knows the order of calls. Does not know any format.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # [n], mono, in [-1, 1]


class FormatRefused(ValueError):
    """A format, rate or bitrate that is not offered; the message says what is."""


@dataclass
class FormatUnavailable(FormatRefused):
    """A format that is offered, but not on this machine as it is."""

    name: str  # the format
    missing: str  # what is missing
    remedy: str  # the command that installs it

    def __str__(self) -> str:
        return f"{self.name} output needs {self.missing}: {self.remedy}"


class Encoder(ABC):
    """One stream, from its first byte to its last. One owner, no locks; reads no clock and touches no file.

    However the samples are cut into pieces, the bytes put together are the same.
    """

    name: str  # of the format
    media_type: str  # for Content-Type
    extension: str  # of a file's name, without the dot

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate  # Hz, of the samples pushed and of what a decoder plays
        self.samples = 0  # pushed so far
        self._begun = False
        self._finished = False

    def push(self, samples: Samples) -> bytes:
        """Add float32 [n], n >= 0; returns what is ready, perhaps nothing. Keeps no reference. The headers come first.

        Beyond [-1, 1] formats of integers clip. Raises ValueError for another type or shape, or samples that are not finite.
        """
        assert not self._finished, "push after finish: the stream has ended"
        if samples.dtype != np.float32 or samples.ndim != 1:
            raise ValueError(f"samples must be float32 [n], not {samples.dtype} {list(samples.shape)}")
        if not np.isfinite(samples).all():
            raise ValueError("samples must be finite")
        self.samples += len(samples)
        return self._headers() + (self._encode(samples) if len(samples) else b"")

    def finish(self) -> bytes:
        """The rest, once. A stream that got no samples is a valid file, too; where a format has no empty files, of silence."""
        assert not self._finished, "finish called twice"
        self._finished = True
        return self._headers() + self._end()

    def known_start(self) -> bytes:
        """After finish: what replaces as many bytes at the start of the stream to make it a file that knows its length."""
        assert self._finished, "the length is known at the end"
        return self._known_start()

    def _headers(self) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        return self._start()

    def _start(self) -> bytes:
        """What precedes the first samples."""
        return b""

    @abstractmethod
    def _encode(self, samples: Samples) -> bytes:
        """At least one sample more."""

    def _end(self) -> bytes:
        """The rest; `self.samples` is the stream's length."""
        return b""

    def _known_start(self) -> bytes:
        return b""

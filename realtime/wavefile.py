"""A WAV file that grows: mono, 16 bits, whole after every write.

Knows the 44 bytes of the header. Does not know where samples come from. Whoever reads the file while it is written, or after the writer
was killed, finds a shorter recording, never a broken one. Source: "Multimedia Programming Interface and Data Specifications 1.0", 1991.
"""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self

import numpy as np
import numpy.typing as npt

Pcm = npt.NDArray[np.int16]  # [n], mono

HEADER_BYTES: Final = 44
ENDLESS: Final = 0xFFFFFFFF  # size of what cannot be rewritten: a pipe's reader goes on to the end


def header(rate: int, data_bytes: int = ENDLESS) -> bytes:
    """The first 44 bytes. A size beyond 32 bits becomes the largest there is, which readers take for `to the end`."""
    data_bytes = min(data_bytes, ENDLESS)
    riff_bytes = min(HEADER_BYTES - 8 + data_bytes, ENDLESS)
    form = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", riff_bytes, b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return form + struct.pack("<4sI", b"data", data_bytes)


class WaveWriter:
    """Writes one file, in place of one that was there. Close it, or use it as a context manager."""

    def __init__(self, path: Path, rate: int) -> None:
        """Raises OSError."""
        self._rate = rate  # Hz
        self._bytes = 0  # of samples
        # Unbuffered: data reaches the file before the header that counts it.
        self._file: BinaryIO = path.open("wb", buffering=0)
        self._seekable = self._file.seekable()
        self._put(header(rate, 0 if self._seekable else ENDLESS))

    @property
    def seconds(self) -> float:
        """What was written."""
        return self._bytes / 2 / self._rate

    def write(self, samples: Pcm) -> None:
        """Add samples. Raises OSError."""
        data = samples.astype("<i2", copy=False).tobytes()
        self._put(data)
        self._bytes += len(data)
        if self._seekable:
            self._file.seek(0)
            self._put(header(self._rate, self._bytes))
            self._file.seek(HEADER_BYTES + self._bytes)

    def close(self) -> None:
        """Idempotent."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _put(self, data: bytes) -> None:
        """An unbuffered write may take only a part."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

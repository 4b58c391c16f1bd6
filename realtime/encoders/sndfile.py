"""FLAC through libsndfile, byte by byte as it writes; and the file that is none, which MP3 uses too.

Knows what libsndfile does to a file: it writes on at the end, and at closing goes back to complete the header. Does not know what is in
those bytes.
"""

from __future__ import annotations

import os
from typing import Final

import numpy as np
import soundfile

from realtime.audio import to_int16
from realtime.encoders.encoder import Encoder, Samples

# Blocks of 1152 samples (48 ms at 24 kHz) instead of 4096 (171 ms) before anything is heard; 1 to 8 % more bytes of speech.
_FLAC_LEVEL: Final = 2 / 8
_FLAC_KNOWN_BYTES: Final = 42  # "fLaC" and STREAMINFO, which holds the length
_REWRITABLE_BYTES: Final = 2048  # more than any header that is completed later (MP3's is at most 1440)


class Tape:
    """What soundfile takes for a file open for writing. Bytes are handed over as they come; rewriting changes only `start`."""

    def __init__(self) -> None:
        self.start = bytearray()  # the first bytes, as they are now
        self._new = bytearray()  # written and not handed over
        self._length = 0
        self._position = 0

    def take(self) -> bytes:
        """What was written at the end since the last call."""
        taken, self._new = bytes(self._new), bytearray()
        return taken

    def write(self, data: bytes) -> int:
        """Libsndfile calls it with a buffer of its own."""
        size, at = len(data), self._position
        assert at == self._length or at + size <= len(self.start), f"libsndfile rewrites {size} bytes at {at}"
        if at < _REWRITABLE_BYTES:
            self.start[at : at + size] = data[: _REWRITABLE_BYTES - at]
        if at == self._length:
            self._new += data
            self._length += size
        self._position += size
        return size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As a file's."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """As a file's."""
        return self._position


class Flac(Encoder):
    """16 bits without loss; length and checksum are 0 (unknown) in the stream's header. Source: RFC 9639 8.2."""

    name = "flac"
    media_type = "audio/flac"
    extension = "flac"

    def __init__(self, sample_rate: int) -> None:
        super().__init__(sample_rate)
        self._tape = Tape()
        self._file = soundfile.SoundFile(
            self._tape, "w", sample_rate, 1, "PCM_16", format="FLAC", compression_level=_FLAC_LEVEL
        )

    def _encode(self, samples: Samples) -> bytes:
        self._file.write(to_int16(samples))
        return self._tape.take()

    def _end(self) -> bytes:
        if not self.samples:  # libsndfile would write nothing, which is no file
            self._file.write(np.zeros(1, np.int16))
        self._file.close()
        return self._tape.take()

    def _known_start(self) -> bytes:
        return bytes(self._tape.start[:_FLAC_KNOWN_BYTES])

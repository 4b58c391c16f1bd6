"""A turn's packets become samples again: the client's half of `realtime.audio`, for the two formats that `say` and `bench` ask for.

Knows pre-skip and the padding of the last Opus packet. Does not know messages or files.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protocol.config import Format
from realtime.opus import OpusDecoder

Samples = npt.NDArray[np.float32]  # [n], mono, in [-1, 1]


class TurnDecoder:
    """The packets of one turn, in order. Raises OpusUnavailable."""

    def __init__(self, fmt: Format, pre_skip: int) -> None:
        """fmt: opus or pcm_s16le. pre_skip: as the server told it, in samples."""
        assert fmt in (Format.OPUS, Format.PCM_S16LE), f"no decoder for {fmt}"
        self._opus = OpusDecoder() if fmt is Format.OPUS else None
        self._skip = pre_skip  # samples still to be dropped
        self._count = 0  # samples given out
        self._held: Samples | None = None  # the last packet, until it is known how much of it is padding

    def decode(self, payload: bytes, last: bool) -> Samples:
        """The samples of a packet that are known to belong to the turn. Raises ValueError for a broken one."""
        if self._opus is None:
            samples = np.frombuffer(payload, "<i2").astype(np.float32) / np.float32(32768)
        else:
            samples = self._opus.decode(payload)
            dropped = min(self._skip, len(samples))
            self._skip -= dropped
            samples = samples[dropped:]
            if last:
                self._held, samples = samples, samples[:0]
        self._count += len(samples)
        return samples

    def rest(self, total: int | None) -> Samples:
        """What was kept back of the last packet. total: samples of the whole turn; None, if it is not known: with the padding."""
        held, self._held = self._held, None
        if held is None:
            return np.zeros(0, np.float32)
        return held if total is None else held[: max(0, total - self._count)]

"""Sound from a client becomes samples at 16 kHz, in the order and at the place where they were recorded.

Knows formats, positions, gaps and when a sample was recorded. Does not know what is heard in it, nor messages. One owner, no locks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from protocol.commands import UplinkFormat
from realtime.audio import G711_RATE_HZ, PCM_RATES_HZ
from realtime.g711_expanding import decode_alaw, decode_mulaw
from realtime.opus import OPUS_RATE_HZ, OpusDecoder
from realtime.resample import Resampler

Samples = npt.NDArray[np.float32]  # [n], mono, in [-1, 1]

RATE_HZ: Final = 16_000  # of the samples that come out: what voice activity is judged at
DEFAULT_RATES_HZ: Final = {
    UplinkFormat.PCM_S16LE: 16_000,
    UplinkFormat.MULAW: G711_RATE_HZ,
    UplinkFormat.ALAW: G711_RATE_HZ,
    UplinkFormat.OPUS: OPUS_RATE_HZ,
}
# Longer than speech takes to count as ended: more silence than this says nothing more. Below it a lost packet of a
# telephone would shorten time; above it a client's leap of hours would have to be filled.
MAX_FILLED_S: Final = 0.6
# A recording clock and ours differ by less than this; without any allowance one early message would date all later ones too early.
CLOCK_DRIFT: Final = 0.001
# A message so much later than those before is not late but recorded later: somebody paused without saying so.
MAX_LATENESS_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class UplinkAudio:
    """What a client announced. Raises ValueError for a combination that is not offered."""

    codec: UplinkFormat
    rate: int  # Hz; positions count in it. Opus 48000, mu-law and A-law 8000

    def __post_init__(self) -> None:
        if self.codec is UplinkFormat.OPUS and self.rate != OPUS_RATE_HZ:
            raise ValueError(f"opus is taken at {OPUS_RATE_HZ} Hz, not {self.rate}")
        if self.codec in (UplinkFormat.MULAW, UplinkFormat.ALAW) and self.rate != G711_RATE_HZ:
            raise ValueError(f"{self.codec} is taken at {G711_RATE_HZ} Hz, not {self.rate}")
        if self.rate not in PCM_RATES_HZ:
            rates = PCM_RATES_HZ
            raise ValueError(f"rate {self.rate} is not a multiple of {rates.step} in {rates[0]}..{rates[-1]} Hz")


class Uplink:
    """One recording. Raises OpusUnavailable where this machine cannot decode Opus."""

    def __init__(self, audio: UplinkAudio, message_ms: int) -> None:
        """message_ms: the longest message that is taken."""
        self._message_ms = message_ms
        self._decode = _decoder(audio.codec)
        # libopus decodes straight to our rate; positions count at the announced one all the same.
        decoded_rate = RATE_HZ if audio.codec is UplinkFormat.OPUS else audio.rate
        self._decoded_rate = decoded_rate
        self._positions = audio.rate // decoded_rate  # for each decoded sample
        self._resampler = Resampler(decoded_rate, RATE_HZ) if decoded_rate != RATE_HZ else None
        self._position = 0  # behind the last sample

    def push(self, payload: bytes, position: int | None) -> Samples:
        """The next message's samples at 16 kHz, those of a gap before it as silence. position: None, where the message has none.

        Raises ValueError for a payload that cannot be read, one that is too long, or a position that was heard already; nothing
        has changed then, but in an Opus decoder, which recovers by itself.
        """
        start = self._position if position is None else position
        if start < self._position:
            raise ValueError(f"position {start} was heard already; {self._position} or later is next")
        samples = self._decode(payload)
        if len(samples) * 1000 > self._decoded_rate * self._message_ms:
            length_ms = len(samples) * 1000 / self._decoded_rate
            raise ValueError(f"a message of {length_ms:.0f} ms is longer than uplink_ms={self._message_ms}")
        missing = (start - self._position) // self._positions
        self._position = start + len(samples) * self._positions
        if missing:
            silence = np.zeros(min(missing, int(self._decoded_rate * MAX_FILLED_S)), np.float32)
            samples = np.concatenate((silence, samples))
        return samples if self._resampler is None else self._resampler.push(samples)


class RecordingClock:
    """When samples were recorded, in our time: the messages that came the fastest tell, the others were late on the way."""

    def __init__(self) -> None:
        self._started_at: float | None = None  # our time of sample 0, as far as is known
        self._heard_at = 0.0  # our time of the last message

    def arrived(self, recorded_s: float, now: float) -> float:
        """Our time of the recording's first sample. recorded_s: seconds of it up to the end of the message that came now."""
        latest = now - recorded_s
        if self._started_at is None or latest - self._started_at > MAX_LATENESS_S:
            self._started_at = latest
        else:
            drifted = self._started_at + max(0.0, now - self._heard_at) * CLOCK_DRIFT
            self._started_at = min(latest, drifted)
        self._heard_at = now
        return self._started_at


def _decoder(codec: UplinkFormat) -> Callable[[bytes], Samples]:
    """Payload to samples at the client's rate. The functions raise ValueError."""
    match codec:
        case UplinkFormat.PCM_S16LE:
            return _pcm
        case UplinkFormat.MULAW:
            return lambda payload: _scaled(decode_mulaw(payload))
        case UplinkFormat.ALAW:
            return lambda payload: _scaled(decode_alaw(payload))
        case UplinkFormat.OPUS:
            return OpusDecoder(RATE_HZ).decode


def _pcm(payload: bytes) -> Samples:
    if len(payload) % 2:
        raise ValueError(f"{len(payload)} bytes are no whole number of 16-bit samples")
    return _scaled(np.frombuffer(payload, "<i2"))


def _scaled(samples: npt.NDArray[np.int16]) -> Samples:
    return samples.astype(np.float32) / np.float32(32768)

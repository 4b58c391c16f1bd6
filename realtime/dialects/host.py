"""What a dialect may ask of this server, see `protocol.dialects.interface.Host`.

Knows voices, encoders and pacing. Does not know connections.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import ValidationError

from protocol.config import Clock, Format, OutputConfig, PacingConfig
from protocol.dialects.interface import FormatRefused, HostLimits, SoundFormat, StreamEncoder
from protocol.dialects.settings import first_error
from realtime import encoders
from realtime.encoders.ogg_opus import PACKET_MS, OggOpus
from realtime.options import output_format, pre_skip
from realtime.opus import OPUS_RATE_HZ
from realtime.service import Service

# Measured with clients that cannot say where they are: a barge-in shows only while audio is still being sent.
PACED: Final = PacingConfig(lead_ms=1000, burst_ms=400, clock=Clock.REALTIME)
UNPACED: Final = PacingConfig(lead_ms=1000, burst_ms=400, clock=Clock.NONE)


class LocalHost:
    """Of one connection."""

    def __init__(self, service: Service, turn_prefix: str, paced: bool) -> None:
        self.turn_prefix = turn_prefix
        self.paced = paced
        self.pacing = PACED if paced else UNPACED
        limits = service.settings.limits
        self.limits = HostLimits(limits.append_chars, limits.turn_chars)
        self.model_rate = service.engine.info.sample_rate
        self.model_name = service.engine.info.name
        self._service = service

    def encoder(self, fmt: SoundFormat, packet_ms: int = 40) -> StreamEncoder:
        """See `Host`."""
        try:
            if fmt.name == Format.OPUS:
                return _OpusPages(fmt, self._service)
            return _Samples(fmt, packet_ms)
        except encoders.FormatRefused as error:
            raise FormatRefused(str(error)) from error
        except ValidationError as error:  # a rate that the codec could do and the resampler cannot
            raise FormatRefused(": ".join(first_error(error))) from error

    def voice(self, name: str | None) -> str | None:
        """See `Host`."""
        return self._service.voices.meant(name, self._service.settings.voice_aliases)

    def voice_names(self) -> Sequence[str]:
        """See `Host`."""
        return self._service.voices.names()


class _Samples:
    """Any format that is made of samples: the session sends floats, so that nothing is rounded twice."""

    def __init__(self, fmt: SoundFormat, packet_ms: int) -> None:
        bitrate = fmt.bitrate
        if bitrate is not None:
            rate = fmt.rate or encoders.encoder_for(fmt.name).sample_rate
            bitrate = encoders.nearest_bitrate(fmt.name, rate, bitrate)
        self._encoder = encoders.encoder_for(fmt.name, sample_rate=fmt.rate, bitrate=bitrate)
        self.media_type = self._encoder.media_type
        self.rate = self._encoder.sample_rate
        self.output = OutputConfig(format=Format.PCM_F32LE, rate=self.rate, frame_ms=packet_ms, bitrate=None)

    def push(self, payload: bytes) -> bytes:
        return self._encoder.push(np.frombuffer(payload, "<f4"))

    def finish(self, audio_ms: int | None = None) -> bytes:
        return self._encoder.finish()


class _OpusPages:
    """Ogg around the packets that the session makes anyway."""

    def __init__(self, fmt: SoundFormat, service: Service) -> None:
        bitrate = None if fmt.bitrate is None else encoders.nearest_bitrate(Format.OPUS, OPUS_RATE_HZ, fmt.bitrate)
        encoder = encoders.encoder_for(Format.OPUS, sample_rate=fmt.rate, bitrate=bitrate)  # refuses what there is not
        self.media_type = encoder.media_type
        self.rate = OPUS_RATE_HZ
        self.output = OutputConfig(format=Format.OPUS, rate=OPUS_RATE_HZ, frame_ms=PACKET_MS, bitrate=bitrate)
        skip = pre_skip(output_format(self.output), service.engine.info)
        self._ogg = OggOpus(secrets.randbits(32), skip)
        self._pre_skip = skip
        self._packets = 0
        self._held: bytes | None = None  # the newest but the first: the last one must come with `finish`

    def push(self, payload: bytes) -> bytes:
        self._packets += 1
        if self._packets == 1:
            return self._ogg.start() + self._ogg.packet(payload)
        held, self._held = self._held, payload
        return self._ogg.packet(held) if held is not None else b""

    def finish(self, audio_ms: int | None = None) -> bytes:
        head = b"" if self._packets else self._ogg.start()
        samples = max(0, self._packets * OPUS_RATE_HZ * PACKET_MS // 1000 - self._pre_skip)
        if audio_ms is not None:
            samples = min(samples, audio_ms * OPUS_RATE_HZ // 1000)
        return head + (self._ogg.finish(samples) if self._held is None else self._ogg.finish(samples, self._held))

"""MP3 of a constant bitrate through libsndfile and LAME, behind an info frame of our own.

Knows the frame header, the info frame and how libsndfile is told a bitrate. LAME's own info frame is made for files: it is empty until
the file is closed, so that a stream would begin with 26 ms of silence, and for low bitrates there is none. Ours tells a decoder how much
of its start is none of the stream's, and in a file also how much of the end.
Sources: ISO/IEC 11172-3 2.4.1.3; Hacker, "MP3 Info Tag rev 1", 2005, for the fields.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np
import soundfile

from realtime.audio import to_int16
from realtime.encoders.encoder import Encoder, Samples
from realtime.encoders.sndfile import Tape
from realtime.wavefile import ENDLESS

# kbit/s by index in a frame's header, which begins at 1. ISO/IEC 11172-3, 13818-3 2.4.2.3, layer III.
_MPEG1_KBITS: Final = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2_KBITS: Final = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG25_KBITS: Final = _MPEG2_KBITS[:8]  # LAME's bound
_RATES: Final = (44100, 48000, 32000)  # by index, of MPEG-1; MPEG-2 has half of each, MPEG-2.5 a quarter
MP3_RATES_HZ: Final = tuple(sorted(rate // part for rate in _RATES for part in (1, 2, 4)))

_ENCODER_DELAY: Final = 576  # samples by which LAME delays; decoders know their own 529
_TELLS_FRAMES, _TELLS_BYTES = 1, 2  # flags
_LAME_FIELDS_BYTES: Final = 156  # from "Info" to the checksum: an info frame has this many, or LAME writes none


def mp3_bitrates(rate: int) -> tuple[int, ...]:
    """bit/s that MP3 has at a rate of MP3_RATES_HZ."""
    return tuple(1000 * kbits for kbits in _layout(rate).kbits)


class _Layout:
    """How MP3 frames look at one rate."""

    def __init__(self, rate: int) -> None:
        part = 1 if rate >= 32000 else 2 if rate >= 16000 else 4  # MPEG-1, 2, 2.5
        self.rate = rate
        self.rate_index = _RATES.index(rate * part)
        self.version = {1: 3, 2: 2, 4: 0}[part]  # its two bits in a header
        self.kbits = {1: _MPEG1_KBITS, 2: _MPEG2_KBITS, 4: _MPEG25_KBITS}[part]
        self.samples = 1152 if part == 1 else 576  # of a frame
        self.side_bytes = 17 if part == 1 else 9  # of side information in a mono frame

    def frame_bytes(self, kbits: int) -> int:
        """Of a frame without padding."""
        return self.samples // 8 * 1000 * kbits // self.rate

    def header(self, kbits: int) -> bytes:
        """Sync, version, layer III, no checksum; bitrate and rate; mono, an original. Source: ISO/IEC 11172-3 2.4.1.3."""
        bits = 0x7FF << 21 | self.version << 19 | 1 << 17 | 1 << 16
        bits |= (self.kbits.index(kbits) + 1) << 12 | self.rate_index << 10 | 3 << 6 | 1 << 2
        return bits.to_bytes(4, "big")


def _layout(rate: int) -> _Layout:
    assert rate in MP3_RATES_HZ, f"MP3 has no {rate} Hz"
    return _Layout(rate)


class Mp3(Encoder):
    """Decodes to the pushed samples from the first one on; a stream ends in up to three frames of silence, a file exactly."""

    name = "mp3"
    media_type = "audio/mpeg"
    extension = "mp3"

    def __init__(self, sample_rate: int, bitrate: int) -> None:
        """bitrate: one of mp3_bitrates(sample_rate)."""
        super().__init__(sample_rate)
        self._layout = _layout(sample_rate)
        self._kbits = bitrate // 1000
        self._bytes = 0  # of audio frames, so far
        frame = self._layout.frame_bytes(self._kbits)
        # LAME's own info frame, where it has one; dropped.
        self._unwanted = frame if frame >= 4 + self._layout.side_bytes + _LAME_FIELDS_BYTES else 0
        self._tape = Tape()
        self._file = soundfile.SoundFile(
            self._tape,
            "w",
            sample_rate,
            1,
            "MPEG_LAYER_III",
            format="MP3",
            compression_level=self._compression(),
            bitrate_mode="CONSTANT",
        )

    def _compression(self) -> float:
        """The number that libsndfile turns into our bitrate, linearly between the largest (0) and the smallest (1)."""
        kbits = self._layout.kbits
        # At exactly 1 it fails: it first hands 10 to LAME as a quality, which ends at 9.999.
        return min(0.9998, (kbits[-1] - self._kbits) / (kbits[-1] - kbits[0]))

    def _start(self) -> bytes:
        return info_frame(self._layout.rate)

    def _encode(self, samples: Samples) -> bytes:
        self._file.write(to_int16(samples))
        return self._frames()

    def _end(self) -> bytes:
        if not self.samples:  # LAME would write nothing, which is no file
            self._file.write(np.zeros(1, np.int16))
        self._file.close()
        return self._frames()

    def _frames(self) -> bytes:
        data = self._tape.take()
        dropped = min(self._unwanted, len(data))
        self._unwanted -= dropped
        self._bytes += len(data) - dropped
        return data[dropped:]

    def _known_start(self) -> bytes:
        # Padding keeps the sum of the frames within a byte of their exact sizes.
        frames = round(self._bytes * 8 * self.sample_rate / (self._layout.samples * self._kbits * 1000))
        padding = max(0, frames * self._layout.samples - _ENCODER_DELAY - self.samples)
        return info_frame(self.sample_rate, frames, self._bytes, padding)


def info_frame(rate: int, frames: int | None = None, audio_bytes: int = 0, padding: int = 0) -> bytes:
    """A frame of silence that describes the others, and that decoders which know it do not play.

    frames, audio_bytes: how many follow; None for frames: unknown. padding: samples at the end that are none of the stream's. Its
    own length depends on the rate only.
    """
    layout = _layout(rate)
    wanted = 4 + layout.side_bytes + _LAME_FIELDS_BYTES
    kbits = next(kbits for kbits in layout.kbits if layout.frame_bytes(kbits) >= wanted)
    size = layout.frame_bytes(kbits)
    if frames is None:
        # ffmpeg plays an info frame that tells neither frames nor bytes. The largest number it takes for a file that still grows.
        total, counts = ENDLESS, struct.pack(">II", _TELLS_BYTES, ENDLESS)
    else:
        total = size + audio_bytes
        counts = struct.pack(">III", _TELLS_FRAMES | _TELLS_BYTES, frames, total)
    told = layout.header(kbits) + bytes(layout.side_bytes) + b"Info" + counts
    # Encoder; tag revision 0 with constant bitrate; 11 bytes of low-pass, gains and flags, unknown; bitrate, unknown.
    told += b"LAME".ljust(9) + b"\x01" + bytes(11)
    told += (_ENCODER_DELAY << 12 | padding).to_bytes(3, "big")
    told += bytes(4) + struct.pack(">I", total) + bytes(2)  # the checksum of the audio: unknown
    told += _crc16(told).to_bytes(2, "big")
    return told.ljust(size, b"\0")


def _crc16(data: bytes) -> int:
    """The polynomial 0x8005, low bits first, from 0."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc

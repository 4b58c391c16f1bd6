"""A recording's file, read with distrust: it may be anything that somebody uploads.

Knows files of sound, and what can be no reference at all. Does not know what makes a good one (`realtime.recording_advice`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from math import log10
from pathlib import Path
from typing import Final

import numpy as np
import soundfile

from engine.api import Samples
from realtime.recording import Measures, measure
from realtime.recording_advice import Advice, Origin, advise

MIN_S: Final = 3.0
MAX_S: Final = 60.0
MAX_BYTES: Final = 64 * 2**20  # a minute of two channels at 96 kHz and 32 bits is 46 MB
RATES_HZ: Final = (8_000, 192_000)
MAX_CHANNELS: Final = 16
SILENT_DB: Final = -60.0  # the loudest moments of speech are some 30 dB above it even where nobody set a level
_BLOCK_FRAMES: Final = 1 << 16

_NAMES: Final = {"VORBIS": "Ogg Vorbis", "OPUS": "Ogg Opus", "ULAW": "mu-law", "ALAW": "A-law", "GSM610": "GSM"}
_LOSSLESS: Final = ("PCM", "FLOAT", "DOUBLE", "ALAC", "DPCM", "DWVW")


@dataclass
class RecordingRefused(Exception):
    """This file can be no reference."""

    why: str  # a clause that goes on after the file's name

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """A file that can be a reference."""

    samples: Samples  # [n], the mean of all channels
    rate: int  # Hz
    origin: Origin
    measures: Measures

    def advice(self, text: str) -> tuple[Advice, ...]:
        """What could be better, with `text` as its transcript."""
        return advise(self.measures, self.origin, text)


def load(path: Path) -> bytes:
    """A file's bytes. Raises RecordingRefused."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecordingRefused(f"cannot be read: {error.strerror or error}") from error
    return data


def samples_of(data: bytes) -> tuple[Samples, int]:
    """Mono samples [n] and their rate in Hz, of a file of any format that libsndfile knows. Raises RecordingRefused.

    No more is decoded than may be used, whatever the file says of its length.
    """
    sound = _decoded(data)
    return sound.samples, sound.rate


def read(data: bytes) -> Recording:
    """What is in a file, and how good it is. Raises RecordingRefused."""
    sound = _decoded(data)
    mix_power = float(np.mean(np.square(sound.samples, dtype=np.float64)))
    loudest_db = 10 * log10(max(sound.channel_power) / max(mix_power, 1e-20)) if any(sound.channel_power) else 0.0
    measures = measure(sound.samples, sound.rate)
    if measures.loud_db < SILENT_DB:
        cure = "its channels cancel each other: give one alone" if loudest_db > 20 else "was it the right microphone?"
        raise RecordingRefused(f"is silent; {cure}")
    origin = Origin(sound.encoding, sound.lossy, len(sound.channel_power), loudest_db)
    return Recording(sound.samples, sound.rate, origin, replace(measures, peak=sound.peak))


@dataclass(frozen=True, slots=True, eq=False)
class _Sound:
    samples: Samples  # [n], the mean of all channels
    rate: int
    peak: float  # of any channel
    channel_power: list[float]
    encoding: str
    lossy: bool


def _decoded(data: bytes) -> _Sound:
    if len(data) > MAX_BYTES:
        raise RecordingRefused(f"has more than {MAX_BYTES >> 20} MB; a minute needs less")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = int(file.samplerate)
            if not RATES_HZ[0] <= rate <= RATES_HZ[1]:
                raise RecordingRefused(f"has a sample rate of {rate} Hz, not {RATES_HZ[0]} to {RATES_HZ[1]}")
            if file.channels > MAX_CHANNELS:
                raise RecordingRefused(f"has {file.channels} channels; {MAX_CHANNELS} are the most")
            samples, peak, power = _mixed(file)
            sound = _Sound(samples, rate, peak, power, *_encoding(file.subtype))
    except (soundfile.SoundFileError, OSError) as error:
        raise RecordingRefused(
            "is no sound that can be read; WAV, FLAC, AIFF, MP3 and Ogg can (convert others: ffmpeg -i FILE FILE.wav)"
        ) from error
    if len(samples) < MIN_S * rate:
        raise RecordingRefused(
            f"is {len(samples) / rate:.1f} s long; a reference has {MIN_S:g} s at least, best 10 to 30 s"
        )
    if not np.isfinite(peak):
        raise RecordingRefused("holds samples that are no numbers; export it again")
    return sound


def _mixed(file: soundfile.SoundFile) -> tuple[Samples, float, list[float]]:
    """The mean of all channels, the highest sample of any, and the power of each. Raises RecordingRefused for one that is too long."""
    limit = int(MAX_S * file.samplerate)
    blocks, count, peak = [], 0, 0.0
    power = np.zeros(file.channels)
    while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        count += len(block)
        if count > limit:
            raise RecordingRefused(f"is longer than {MAX_S:g} s; cut out 10 to 30 s of clear speech")
        blocks.append(block.mean(axis=1, dtype=np.float32))
        peak = max(peak, float(np.abs(block).max())) if np.isfinite(block).all() else float("nan")
        power += np.square(block, dtype=np.float64).sum(axis=0)
    samples = np.concatenate(blocks) if blocks else np.zeros(0, np.float32)
    return samples, peak, [float(one) for one in power / max(count, 1)]


def _encoding(subtype: str) -> tuple[str, bool]:
    """As a person knows it, and whether it loses anything."""
    if "MPEG" in subtype:
        return "MP3", True
    return _NAMES.get(subtype, subtype.replace("_", " ")), not subtype.startswith(_LOSSLESS)

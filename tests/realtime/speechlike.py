"""Something that has what the measures of a recording look for: syllables of tone and hiss, words that stop, pauses, a quiet room.

It is no speech: one pitch, two kinds of sound. The bounds were set with a synthesizer; here it is only told that each check sees its thing
and nothing else.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any

import numpy as np
import soundfile

from realtime.recording import Array

RATE = 48_000
TEXT = "The ferry leaves at nine, so we should be there a little earlier. Bring a coat, because it is windy out on the water."


@lru_cache
def _syllable(pitch: float) -> Array:
    """0.15 s of tone with partials up to 6 kHz, then 0.08 s of hiss up to the end of the band."""
    when = np.arange(int(0.15 * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * pitch * k * when + k * k) / k**1.1 for k in range(1, int(6000 / pitch)))
    hiss = 0.5 * np.random.default_rng(int(pitch)).standard_normal(int(0.08 * RATE))
    return np.concatenate([_faded(np.asarray(tone)), _faded(hiss)])


def _faded(sound: Array) -> Array:
    edge = np.minimum(1.0, np.arange(len(sound)) / (0.012 * RATE))
    return sound * edge * edge[::-1]


@lru_cache
def clean(seconds: float = 10.0, seed: int = 0) -> Array:
    """Phrases of some eight syllables with pauses between, at 48 kHz; peaks at -8 dB, a room at -75 dB. Do not write to it."""
    rng = np.random.default_rng(seed)
    parts = [np.zeros(int(0.2 * RATE))]
    while sum(map(len, parts)) < seconds * RATE:
        pitch = float(rng.integers(90, 220))
        parts += [_syllable(pitch + float(rng.integers(0, 12))) for _ in range(int(rng.integers(5, 10)))]
        parts.append(np.zeros(int(rng.uniform(0.3, 0.5) * RATE)))
    speech = np.concatenate(parts)[: int(seconds * RATE)]
    made: Array = 0.4 * speech / np.abs(speech).max() + 10 ** (-75 / 20) * rng.standard_normal(len(speech))
    return made


def with_noise(sound: Array, snr_db: float, seed: int = 1) -> Array:
    """White noise so far below the speech."""
    noise = np.random.default_rng(seed).standard_normal(len(sound))
    return sound + noise * _speech_rms(sound) * 10 ** (-snr_db / 20)


def with_music(sound: Array, snr_db: float) -> Array:
    """Chords of three notes, one a second."""
    when = np.arange(len(sound)) / RATE
    roots = 130.8 * 2 ** (np.array([0, 9, 5, 7]) / 12)[(when.astype(int)) % 4]
    music = sum(
        np.sin(2 * np.pi * np.cumsum(roots * ratio * k) / RATE) / k for ratio in (1, 5 / 4, 3 / 2) for k in (1, 2, 3)
    )
    music = np.asarray(music)
    made: Array = sound + music / np.sqrt(np.mean(music**2)) * _speech_rms(sound) * 10 ** (-snr_db / 20)
    return made


def in_room(sound: Array, decay_s: float, seed: int = 2) -> Array:
    """As far from the microphone as both sounds are equally loud: the direct one, and noise that falls by 60 dB in `decay_s`."""
    when = np.arange(int(1.2 * decay_s * RATE)) / RATE
    room = np.random.default_rng(seed).standard_normal(len(when)) * 10 ** (-3 * when / decay_s)
    room[: int(0.004 * RATE)] = 0
    room /= np.sqrt(np.sum(room**2))
    room[0] = 1.0
    size = 1 << (len(sound) + len(room)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(room, size), size)[: len(sound)]
    made: Array = 0.4 * wet / np.abs(wet).max()
    return made


def below(sound: Array, hz: float) -> Array:
    """With nothing above `hz`."""
    spectrum = np.fft.rfft(sound)
    spectrum[np.fft.rfftfreq(len(sound), 1 / RATE) > hz] = 0
    made: Array = np.fft.irfft(spectrum, len(sound))
    return made


def file(sound: Array, rate: int = RATE, kind: str = "WAV", subtype: str | None = None) -> bytes:
    """As the bytes of an audio file. sound: [n] or [n, channels]."""
    out = io.BytesIO()
    arguments: dict[str, Any] = {"format": kind, "subtype": subtype}
    soundfile.write(out, sound, rate, **arguments)
    return out.getvalue()


def _speech_rms(sound: Array) -> float:
    frames = sound[: len(sound) // 960 * 960].reshape(-1, 960)
    power = np.mean(frames**2, axis=1)
    return float(np.sqrt(np.mean(power[power > 0.0025 * power.max()])))

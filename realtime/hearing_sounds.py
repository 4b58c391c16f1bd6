"""What `realtime.hearing_report` listens to: spoken phrases, the noises of rooms, and a loudspeaker that the microphone hears.

Speech comes from espeak-ng, or from a folder of recordings; noises are made by formula, because they must be the same everywhere. Does not
know what is measured. All sounds are float32 [n] at 16 kHz; every random thing has a seed.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from realtime.uplink import RATE_HZ

Sound = npt.NDArray[np.float32]
_Any = npt.NDArray[np.floating[Any]]

SPEECH_DB: Final = -26.0  # RMS of the speaker's own sound: what a headset or a phone delivers
AUDIBLE_DB: Final = -45.0  # below the phrase's peak: where it begins and ends
# Things said to stop somebody: from one syllable to a sentence.
PHRASES: Final = (
    ("en", "Wait, could you say that again please?"),
    ("en", "No, that is not what I meant."),
    ("en", "Stop."),
    ("en", "Excuse me, I have a question about my order."),
    ("en", "Hold on a second."),
    ("en", "Yes, but what does it cost?"),
    ("en", "Can you hear me?"),
    ("de", "Moment bitte, das habe ich nicht verstanden."),
    ("de", "Nein, am Donnerstag geht es leider nicht."),
    ("de", "Halt."),
)
VARIANTS: Final = ("", "+m3", "+f3", "+f5")
ANSWER: Final = (
    "Of course. Your order left our warehouse on Tuesday morning and should be with you before the weekend. "
    "If nobody is at home, the driver leaves it with a neighbour, or takes it to the shop on the corner. "
    "You can also choose another day, as long as you tell us by six in the evening. Is there anything else that I can do for you?"
)


class NoSpeech(Exception):
    """There is nothing to listen to; the text says what would help."""


@dataclass(frozen=True, slots=True)
class Phrase:
    """Something said, cut to where it is audible."""

    name: str
    sound: Sound  # at SPEECH_DB


def phrases(folder: Path | None) -> list[Phrase]:
    """The recordings in a folder, or what espeak-ng says. Raises NoSpeech."""
    if folder is not None:
        found = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".wav", ".flac", ".ogg")]
        if not found:
            raise NoSpeech(f"{folder} has no .wav, .flac or .ogg file")
        return [Phrase(path.stem, _trimmed(read(path))) for path in found]
    return [
        Phrase(f"{language}{variant}: {text}", _trimmed(spoken(text, language + variant)))
        for language, text in PHRASES
        for variant in VARIANTS
    ]


def spoken(text: str, voice: str) -> Sound:
    """What espeak-ng says. Raises NoSpeech where it is not installed."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise NoSpeech(
            "espeak-ng is not installed (apt-get install espeak-ng); or name a folder of recordings with --speech"
        )
    made = subprocess.run([program, "-v", voice, "--stdout", text], capture_output=True, check=True)
    return _read(io.BytesIO(made.stdout))


def read(path: Path) -> Sound:
    """A file's first channel, at 16 kHz."""
    return _read(path)


def answer(folder: Path | None) -> Sound:
    """The agent's own voice, about twenty seconds, at SPEECH_DB. A folder's recordings one after the other, the first half of them."""
    if folder is not None:
        parts = phrases(folder)
        pause = np.zeros(RATE_HZ // 4, np.float32)
        return np.concatenate([piece for part in parts[: max(1, len(parts) // 2)] for piece in (part.sound, pause)])
    return _trimmed(spoken(ANSWER, "en+f2"))


def at_level(sound: Sound, db: float) -> Sound:
    """The same with another RMS, of its louder parts."""
    return (sound * 10 ** ((db - speech_db(sound)) / 20)).astype(np.float32)


def speech_db(sound: Sound) -> float:
    """RMS in dB of the hops within 25 dB of the loudest: pauses do not make a speaker quieter."""
    frames = sound[: len(sound) // 320 * 320].reshape(-1, 320).astype(np.float64)
    power = np.mean(frames**2, axis=1)
    return float(10 * np.log10(np.mean(power[power > power.max() / 316] + 1e-12)))


def noises(seconds: float) -> dict[str, Sound]:
    """Every noise by name, at an RMS of SPEECH_DB - 10 where it is steady and at the peaks of speech where it comes in bursts."""
    return {name: make(seconds, np.random.default_rng(index)) for index, (name, make) in enumerate(_NOISES.items())}


def babble(said: Sequence[Phrase], seconds: float) -> Sound:
    """Eight people who talk at once, SPEECH_DB - 10 together."""
    rng = np.random.default_rng(8)
    made = np.zeros(int(seconds * RATE_HZ), np.float32)
    for _ in range(8):
        talk = np.concatenate([said[index].sound for index in rng.permutation(len(said))])
        made += np.roll(np.resize(talk, len(made)), int(rng.integers(len(made))))
    return _steady(made)


def over_noise(sound: Sound, snr_db: float, noise: Sound) -> Sound:
    """A sound at SPEECH_DB with a noise so far below it."""
    repeated = np.resize(noise, len(sound))
    gain = 10 ** ((SPEECH_DB - snr_db) / 20) / max(1e-9, float(np.sqrt(np.mean(repeated**2))))
    return (sound + gain * repeated).astype(np.float32)


def echo(sound: Sound, gain_db: float, delay_s: float, decay_s: float, seed: int = 5) -> Sound:
    """What a microphone hears of a loudspeaker in its room: late, with the room's tail (60 dB in decay_s), without the lowest tones."""
    rng = np.random.default_rng(seed)
    when = np.arange(int(decay_s * RATE_HZ)) / RATE_HZ
    room = rng.standard_normal(len(when)) * 10 ** (-3 * when / decay_s) * 0.03
    room[0] = 1.0
    heard = _filtered(sound, lambda hz: (hz > 250) * 1.0)
    size = 1 << (len(heard) + len(room)).bit_length()
    wet = np.fft.irfft(np.fft.rfft(heard, size) * np.fft.rfft(room, size), size)[: len(sound)]
    late = np.concatenate((np.zeros(int(delay_s * RATE_HZ)), wet))[: len(sound)].astype(np.float32)
    return at_level(late, speech_db(sound) + gain_db)


def _read(source: Path | io.BytesIO) -> Sound:
    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    mono: Sound = samples[:, 0] if rate == RATE_HZ else soxr.resample(samples[:, 0], rate, RATE_HZ)
    return mono


def _trimmed(sound: Sound) -> Sound:
    audible = np.flatnonzero(np.abs(sound) > np.abs(sound).max() * 10 ** (AUDIBLE_DB / 20))
    return at_level(sound[audible[0] : audible[-1] + 1], SPEECH_DB)


def _filtered(sound: _Any, gain: Callable[[_Any], _Any]) -> Sound:
    spectrum = np.fft.rfft(sound)
    made: Sound = np.fft.irfft(spectrum * gain(np.fft.rfftfreq(len(sound), 1 / RATE_HZ)), len(sound)).astype(np.float32)
    return made


def _steady(sound: _Any) -> Sound:
    made: Sound = (sound * 10 ** ((SPEECH_DB - 10) / 20) / np.sqrt(np.mean(sound**2))).astype(np.float32)
    return made


def _white(seconds: float, rng: np.random.Generator) -> Sound:
    return _steady(rng.standard_normal(int(seconds * RATE_HZ)))


def _pink(seconds: float, rng: np.random.Generator) -> Sound:
    return _steady(_filtered(rng.standard_normal(int(seconds * RATE_HZ)), lambda hz: 1 / np.sqrt(np.maximum(hz, 20))))


def _traffic(seconds: float, rng: np.random.Generator) -> Sound:
    """Low noise that swells as cars pass."""
    low = _filtered(rng.standard_normal(int(seconds * RATE_HZ)), lambda hz: 1 / np.maximum(hz, 40))
    when = np.arange(len(low)) / RATE_HZ
    return _steady(low * (1 + 0.8 * np.sin(2 * np.pi * when / 7)))


def _hum(seconds: float, rng: np.random.Generator) -> Sound:
    """Mains and a fan."""
    when = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    tones = sum(np.sin(2 * np.pi * 50 * k * when + k) / k for k in range(1, 12))
    return _steady(np.asarray(tones) + 0.3 * rng.standard_normal(len(when)))


def _keyboard(seconds: float, rng: np.random.Generator) -> Sound:
    return _bursts(seconds, rng, gap_s=(0.08, 0.4), length_s=0.012, low_hz=1500, high_hz=7000, quieter_db=6)


def _knocks(seconds: float, rng: np.random.Generator) -> Sound:
    return _bursts(seconds, rng, gap_s=(0.15, 1.5), length_s=0.06, low_hz=80, high_hz=600, quieter_db=0)


def _coughs(seconds: float, rng: np.random.Generator) -> Sound:
    """Bursts of breath as wide as a throat's, 0.15 to 0.3 s."""
    return _bursts(seconds, rng, gap_s=(1.0, 3.0), length_s=0.22, low_hz=300, high_hz=4500, quieter_db=0)


def _bursts(
    seconds: float,
    rng: np.random.Generator,
    gap_s: tuple[float, float],
    length_s: float,
    low_hz: float,
    high_hz: float,
    quieter_db: float,
) -> Sound:
    """Short decaying noises within a band, over a quiet room."""
    made = 10 ** (-65 / 20) * rng.standard_normal(int(seconds * RATE_HZ))
    at_s = rng.uniform(*gap_s)
    while at_s < seconds - 1:
        length = int(length_s * rng.uniform(0.7, 1.4) * RATE_HZ)
        breath = rng.standard_normal(length) * np.exp(-4 * np.arange(length) / length)
        burst = _filtered(breath, lambda hz: ((hz > low_hz) & (hz < high_hz)) * 1.0)
        peak = 10 ** ((SPEECH_DB + 14 - quieter_db + rng.uniform(-6, 0)) / 20)
        start = int(at_s * RATE_HZ)
        made[start : start + length] += burst * peak / np.abs(burst).max()
        at_s += length_s + rng.uniform(*gap_s)
    return made.astype(np.float32)


def _music(seconds: float, rng: np.random.Generator) -> Sound:
    """Plucked chords, two a second."""
    made = np.zeros(int(seconds * RATE_HZ))
    for beat in range(int(seconds * 2) - 2):
        root = 110 * 2 ** (rng.integers(0, 12) / 12)
        when = np.arange(RATE_HZ) / RATE_HZ
        for ratio in (1, 5 / 4, 3 / 2, 2):
            tones = sum(np.sin(2 * np.pi * root * ratio * k * when) / k for k in (1, 2, 3, 4))
            made[beat * RATE_HZ // 2 :][:RATE_HZ] += np.asarray(tones) * np.exp(-5 * when)
    return _steady(made)


_NOISES: Final[dict[str, Callable[[float, np.random.Generator], Sound]]] = {
    "white": _white,
    "pink": _pink,
    "traffic": _traffic,
    "hum": _hum,
    "keyboard": _keyboard,
    "knocks": _knocks,
    "coughs": _coughs,
    "music": _music,
}

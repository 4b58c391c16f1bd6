"""Which formats there are, what each can do, and which of them this machine lacks something for.

Knows names, rates and bitrates. Does not know how anything is encoded, or who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import soundfile

from realtime.audio import G711_RATE_HZ, PCM_RATES_HZ
from realtime.encoders.aac import AAC_RATES_HZ, Aac, aac_bitrates, aac_missing
from realtime.encoders.encoder import Encoder, FormatRefused, FormatUnavailable, Samples
from realtime.encoders.mp3 import MP3_RATES_HZ, Mp3, mp3_bitrates
from realtime.encoders.ogg_opus import OggOpusEncoder
from realtime.encoders.plain import Alaw, Mulaw, Pcm, PcmFloat, Wav
from realtime.encoders.sndfile import Flac
from realtime.opus import DEFAULT_BITRATE, OPUS_BITRATES, OPUS_RATE_HZ, OpusEncoder, OpusUnavailable

_DEFAULT_RATE_HZ: Final = 24000  # what the vendors send
_MP3_RATE_HZ: Final = 44100
_MP3_BITRATE: Final = 128_000  # vendors' default; leaves nothing to hear of one channel of speech
_AAC_BITRATE: Final = 96_000


def _none(rate: int) -> Sequence[int]:
    return ()


def _mp3_missing() -> FormatUnavailable | None:
    if "MP3" not in soundfile.available_formats():
        return FormatUnavailable("mp3", "libsndfile 1.1 or newer", "pip install --upgrade soundfile")
    return None


def _opus_missing() -> FormatUnavailable | None:
    try:
        OpusEncoder()
    except OpusUnavailable as error:
        return FormatUnavailable("opus", error.missing, error.remedy)
    return None


@dataclass(frozen=True, slots=True)
class _Format:
    """One row of the table below."""

    encoder: type[Encoder]
    make: Callable[[int, int], Encoder]  # (rate, bitrate), both offered; bitrate 0 where there is nothing to choose
    rates: Sequence[int]  # Hz, ascending
    default_rate: int  # Hz
    bitrates: Callable[[int], Sequence[int]] = _none  # bit/s at a rate, ascending
    default_bitrate: int = 0  # bit/s; the nearest one offered at a rate
    missing: Callable[[], FormatUnavailable | None] = lambda: None


def _plain(encoder: type[Encoder], rates: Sequence[int], default_rate: int) -> _Format:
    return _Format(encoder, lambda rate, bitrate: encoder(rate), rates, default_rate)


_G711_RATES: Final = (G711_RATE_HZ,)
_TABLE: Final = (
    _plain(Pcm, PCM_RATES_HZ, _DEFAULT_RATE_HZ),
    _plain(PcmFloat, PCM_RATES_HZ, _DEFAULT_RATE_HZ),
    _plain(Wav, PCM_RATES_HZ, _DEFAULT_RATE_HZ),
    _plain(Flac, PCM_RATES_HZ, _DEFAULT_RATE_HZ),
    _Format(Mp3, Mp3, MP3_RATES_HZ, _MP3_RATE_HZ, mp3_bitrates, _MP3_BITRATE, _mp3_missing),
    _Format(
        OggOpusEncoder,
        OggOpusEncoder,
        (OPUS_RATE_HZ,),
        OPUS_RATE_HZ,
        lambda rate: OPUS_BITRATES,
        DEFAULT_BITRATE,
        _opus_missing,
    ),
    _Format(Aac, Aac, AAC_RATES_HZ, _DEFAULT_RATE_HZ, aac_bitrates, _AAC_BITRATE, aac_missing),
    _plain(Mulaw, _G711_RATES, G711_RATE_HZ),
    _plain(Alaw, _G711_RATES, G711_RATE_HZ),
)
_FORMATS: Final = {entry.encoder.name: entry for entry in _TABLE}


@dataclass(frozen=True, slots=True)
class FormatInfo:
    """A format, and whether it can be had here."""

    name: str
    media_type: str
    extension: str  # without the dot
    default_rate: int  # Hz
    rates: Sequence[int]  # Hz, ascending
    unavailable: FormatUnavailable | None  # says what to install

    def bitrates(self, rate: int) -> Sequence[int]:
        """bit/s at one of `rates`, ascending; empty where there is nothing to choose."""
        return _FORMATS[self.name].bitrates(rate)


def formats() -> tuple[FormatInfo, ...]:
    """All of them, those unavailable here included."""
    return tuple(
        FormatInfo(name, e.encoder.media_type, e.encoder.extension, e.default_rate, e.rates, e.missing())
        for name, e in _FORMATS.items()
    )


def encoder_for(name: str, *, sample_rate: int | None = None, bitrate: int | None = None) -> Encoder:
    """A new stream. sample_rate in Hz, bitrate in bit/s; None: the format's default.

    Raises FormatUnavailable where this machine lacks something, else FormatRefused for what is not offered.
    """
    entry = _entry(name)
    rate = entry.default_rate if sample_rate is None else sample_rate
    _check_rate(name, rate)
    offered = entry.bitrates(rate)
    if bitrate is None:
        bitrate = _nearest(offered, entry.default_bitrate) or 0
    elif bitrate not in offered:
        raise FormatRefused(f"{name} at {rate} Hz has no bitrate of {bitrate} bit/s, but {_listed(offered, 'bit/s')}")
    if (unavailable := entry.missing()) is not None:
        raise unavailable
    return entry.make(rate, bitrate)


def whole_file(name: str, samples: Samples, *, sample_rate: int | None = None, bitrate: int | None = None) -> bytes:
    """All at once: the header knows the length. Samples, errors: as Encoder.push and encoder_for."""
    encoder = encoder_for(name, sample_rate=sample_rate, bitrate=bitrate)
    stream = encoder.push(samples) + encoder.finish()
    start = encoder.known_start()
    return start + stream[len(start) :]


def nearest_bitrate(name: str, sample_rate: int, wanted: int) -> int | None:
    """The bit/s that comes nearest to what was asked for; None where there is nothing to choose. Raises FormatRefused.

    For clients that send the same number with every rate: MP3 has 192 kbit/s at 44.1 kHz, and not at 24 kHz.
    """
    _check_rate(name, sample_rate)
    return _nearest(_entry(name).bitrates(sample_rate), wanted)


def _nearest(offered: Sequence[int], wanted: int) -> int | None:
    if isinstance(offered, range):
        return min(max(wanted, offered[0]), offered[-1])
    return min(offered, key=lambda bitrate: abs(bitrate - wanted), default=None)


def _entry(name: str) -> _Format:
    try:
        return _FORMATS[name]
    except KeyError:
        raise FormatRefused(f"there is no format {name!r}, but {', '.join(_FORMATS)}") from None


def _check_rate(name: str, rate: int) -> None:
    rates = _entry(name).rates
    if rate not in rates:
        raise FormatRefused(f"{name} has no {rate} Hz, but {_listed(rates, 'Hz')}")


def _listed(numbers: Sequence[int], unit: str) -> str:
    if not numbers:
        return "nothing to choose"
    if isinstance(numbers, range):
        step = f" in steps of {numbers.step}" if numbers.step > 1 else ""
        return f"{numbers[0]}..{numbers[-1]} {unit}{step}"
    return f"{', '.join(map(str, numbers))} {unit}"

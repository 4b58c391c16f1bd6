"""The Opus encoder, heard through libopus's own decoder, and what is said where there is no libopus."""

import ctypes.util
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from realtime import opus
from realtime.opus import OPUS_FRAMES_MS, OpusDecoder, OpusEncoder, OpusUnavailable

Samples = npt.NDArray[np.float32]

ROOT = Path(__file__).parents[2]


def voice(seconds: float, rate: int = 48000) -> Samples:
    """Harmonics of a gliding pitch under syllables: speech as far as an encoder cares."""
    when = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * when)) / rate
    harmonics = sum(np.sin(n * phase) / n**1.3 for n in range(1, 25))
    samples: Samples = (0.25 * harmonics * (0.1 + np.sin(np.pi * 4 * when) ** 2)).astype(np.float32)
    return samples


def encode(encoder: OpusEncoder, samples: Samples) -> list[bytes]:
    size = encoder.frame_samples
    return [encoder.encode(samples[at : at + size]) for at in range(0, len(samples) - size + 1, size)]


def decode(packets: list[bytes], frame_samples: int) -> Samples:
    decoder = importlib.import_module("opuslib").Decoder(48000, 1)
    return np.concatenate(
        [np.frombuffer(decoder.decode_float(packet, frame_samples), np.float32) for packet in packets]
    )


@pytest.fixture
def fresh_search(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As in a process that has not asked for Opus yet; the real library is back afterwards."""
    for name in [name for name in sys.modules if name.split(".")[0] == "opuslib"]:
        monkeypatch.delitem(sys.modules, name)
    opus._opuslib.cache_clear()
    yield monkeypatch
    opus._opuslib.cache_clear()


@pytest.mark.parametrize("frame_ms", OPUS_FRAMES_MS)
def test_a_packet_lasts_as_long_as_asked_for(frame_ms: int) -> None:
    encoder = OpusEncoder(frame_ms)
    packets = encode(encoder, voice(1.2))
    assert encoder.frame_samples == 48 * frame_ms
    assert len(decode(packets, 2880)) == len(packets) * encoder.frame_samples


@pytest.mark.parametrize("frame_ms", OPUS_FRAMES_MS)
def test_decoded_sound_is_the_input_later_by_the_lookahead(frame_ms: int) -> None:
    encoder, samples = OpusEncoder(frame_ms, 64000), voice(2.4)
    heard = decode(encode(encoder, samples), encoder.frame_samples)
    shifts = range(encoder.lookahead - 40, encoder.lookahead + 41)
    likeness = [float(np.corrcoef(heard[shift : shift + 96000], samples[:96000])[0, 1]) for shift in shifts]
    assert max(likeness) > 0.95
    assert abs(shifts[int(np.argmax(likeness))] - encoder.lookahead) <= 3


def test_the_lookahead_is_what_the_decoder_adds() -> None:
    assert OpusEncoder().lookahead == 312


def test_the_bitrate_is_kept() -> None:
    breathy = voice(4) + 0.02 * np.random.default_rng(0).standard_normal(4 * 48000).astype(np.float32)
    for bitrate in (16000, 32000, 64000):
        packets = encode(OpusEncoder(20, bitrate), breathy)
        assert 0.75 * bitrate < sum(map(len, packets)) * 8 / (len(packets) * 0.02) < 1.25 * bitrate


def test_the_same_samples_give_the_same_packets() -> None:
    assert encode(OpusEncoder(), voice(1)) == encode(OpusEncoder(), voice(1))


def test_the_extremes_fit_into_a_packet() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, 2880).astype(np.float32)
    for frame_ms in OPUS_FRAMES_MS:
        encoder = OpusEncoder(frame_ms, 510_000)
        assert len(encoder.encode(noise[: encoder.frame_samples])) > 600 * frame_ms / 20


@pytest.mark.parametrize(
    ("frame_ms", "bitrate", "said"),
    [(30, 32000, "not 30"), (20, 5999, "bitrate 5999"), (20, 510_001, "bitrate 510001")],
)
def test_what_opus_cannot_do_is_refused(frame_ms: int, bitrate: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OpusEncoder(frame_ms, bitrate)


def test_without_libopus_one_line_says_what_to_install(fresh_search: pytest.MonkeyPatch) -> None:
    fresh_search.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(OpusUnavailable) as refusal:
        OpusEncoder()
    assert str(refusal.value) == "Opus output needs the system library libopus: apt-get install libopus0"


def test_without_opuslib_one_line_says_what_to_install(fresh_search: pytest.MonkeyPatch) -> None:
    fresh_search.setitem(sys.modules, "opuslib", None)
    with pytest.raises(OpusUnavailable, match="pip install opuslib"):
        OpusEncoder()


def test_a_libopus_that_does_not_load_is_said_to_be_so(fresh_search: pytest.MonkeyPatch) -> None:
    fresh_search.setattr(ctypes.util, "find_library", lambda name: __file__)
    with pytest.raises(OpusUnavailable, match=r"a libopus that loads \(.*\): apt-get"):
        OpusEncoder()


def test_a_libopus_installed_later_is_found(fresh_search: pytest.MonkeyPatch) -> None:
    with fresh_search.context() as missing:
        missing.setattr(ctypes.util, "find_library", lambda name: None)
        with pytest.raises(OpusUnavailable):
            OpusEncoder()
    assert OpusEncoder().encode(np.zeros(960, np.float32))


def test_no_warning_comes_with_an_opuslib_that_was_never_compiled(tmp_path: Path) -> None:
    program = "from realtime.opus import OpusEncoder; OpusEncoder()"
    flags = ["-W", "error", "-X", f"pycache_prefix={tmp_path}"]
    subprocess.run([sys.executable, *flags, "-c", program], cwd=ROOT, check=True, timeout=180)


def test_our_decoder_gives_back_what_our_encoder_took() -> None:
    encoder, decoder = OpusEncoder(), OpusDecoder()
    wave = (0.3 * np.sin(np.arange(48000) * 2 * np.pi * 440 / 48000)).astype(np.float32)
    packets = [encoder.encode(part) for part in wave.reshape(-1, encoder.frame_samples)]
    decoded = np.concatenate([decoder.decode(packet) for packet in packets])
    assert decoded.size == wave.size
    delayed = decoded[encoder.lookahead :]
    assert np.corrcoef(delayed[4800:], wave[4800 : delayed.size])[0, 1] > 0.97


def test_a_broken_packet_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="broken Opus packet of 3 bytes"):
        OpusDecoder().decode(b"\xff\xff\xff")


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_a_decoder_gives_the_rate_that_is_asked_for(rate: int) -> None:
    encoder, decoder = OpusEncoder(20), OpusDecoder(rate)
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)).astype(np.float32)
    heard = np.concatenate([decoder.decode(packet) for packet in encode(encoder, tone)])
    assert len(heard) == rate
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(rate)))
    assert np.argmax(spectrum) == 440


def test_the_longest_packet_there_is_can_be_decoded() -> None:
    encoder = importlib.import_module("opuslib").Encoder(48000, 1, "audio")
    packet = encoder.encode_float(voice(0.12).tobytes(), 5760)
    assert len(OpusDecoder(16000).decode(packet)) == 1920

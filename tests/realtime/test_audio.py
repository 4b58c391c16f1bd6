"""A turn's packets: exact positions, an exact end, the same however the samples come."""

import ctypes.util
import importlib
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime import opus
from realtime.audio import AudioCodec, AudioOutput, AudioPacket, OutputFormat, to_int16
from realtime.g711 import encode_alaw, encode_mulaw
from realtime.opus import OpusUnavailable
from realtime.resample import Resampler

Samples = npt.NDArray[np.float32]

ROOT = Path(__file__).parents[2]
FRAMES = {22050: 1024, 44100: 2048}  # samples of one codec frame at the two source rates we meet

FORMATS = [
    OutputFormat(),
    OutputFormat(AudioCodec.OPUS, frame_ms=10),
    OutputFormat(AudioCodec.OPUS, frame_ms=40),
    OutputFormat(AudioCodec.OPUS, frame_ms=60, bitrate=24000),
    OutputFormat(AudioCodec.PCM_S16LE, 48000),
    OutputFormat(AudioCodec.PCM_S16LE, 44100),
    OutputFormat(AudioCodec.PCM_S16LE, 24000, frame_ms=100),
    OutputFormat(AudioCodec.PCM_S16LE, 22050),
    OutputFormat(AudioCodec.PCM_S16LE, 16000),
    OutputFormat(AudioCodec.PCM_S16LE, 11025, frame_ms=10),
    OutputFormat(AudioCodec.PCM_S16LE, 8000),
    OutputFormat(AudioCodec.PCM_F32LE, 24000),
    OutputFormat(AudioCodec.MULAW, 8000),
    OutputFormat(AudioCodec.ALAW, 8000),
]
every_format = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: f"{fmt.codec}-{fmt.rate}-{fmt.frame_ms}")


def voice(n: int, rate: int) -> Samples:
    """Harmonics of a gliding pitch under syllables: speech as far as an encoder cares."""
    when = np.arange(n) / rate
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * when)) / rate
    harmonics = sum(np.sin(k * phase) / k**1.3 for k in range(1, 25))
    samples: Samples = (0.25 * harmonics * (0.1 + np.sin(np.pi * 4 * when) ** 2)).astype(np.float32)
    return samples


def speak(samples: Samples, source: int, fmt: OutputFormat, pieces: list[int] | None = None) -> list[AudioPacket]:
    """One whole turn, pushed in pieces of the given sizes, over and over; codec frames where none are given."""
    output, packets, at, turn = AudioOutput(source, fmt), [], 0, 0
    sizes = pieces or [FRAMES[source]]
    while at < len(samples):
        size = sizes[turn % len(sizes)]
        packets += output.push(samples[at : at + size])
        at, turn = at + size, turn + 1
    return packets + output.finish()


def converted(samples: Samples, source: int, rate: int) -> Samples:
    if source == rate:
        return samples
    resampler = Resampler(source, rate)
    return np.concatenate((resampler.push(samples), resampler.finish()))


def payloads(packets: list[AudioPacket]) -> bytes:
    return b"".join(packet.payload for packet in packets)


def heard_by_an_opus_client(packets: list[AudioPacket], pre_skip: int) -> Samples:
    """What a client plays: everything decoded, without the pre-skip and without the padding of the last packet."""
    decoder = importlib.import_module("opuslib").Decoder(48000, 1)
    decoded = [np.frombuffer(decoder.decode_float(packet.payload, 2880), np.float32) for packet in packets]
    return np.concatenate(decoded)[pre_skip:][: packets[-1].position + packets[-1].samples]


@every_format
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_the_pieces_change_no_byte(fmt: OutputFormat, data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(sorted(FRAMES)))
    samples = voice(data.draw(st.integers(0, 9000)), source)
    pieces = data.draw(st.lists(st.integers(0, 3000), min_size=1, max_size=6).filter(any))
    assert speak(samples, source, fmt, pieces) == speak(samples, source, fmt, [max(1, len(samples))])


@every_format
@pytest.mark.parametrize("source", FRAMES)
@pytest.mark.parametrize("n", [1, 2, 440, 441, 882, 1024, 5000, 20 * 1024])
def test_positions_are_contiguous_and_end_exactly(source: int, fmt: OutputFormat, n: int) -> None:
    packets = speak(voice(n, source), source, fmt)
    assert packets[0].position == 0
    for before, after in pairwise(packets):
        assert after.position == before.position + before.samples
    assert packets[-1].position + packets[-1].samples == -(-n * fmt.rate // source)
    assert all(0 < packet.samples <= fmt.packet_samples for packet in packets)
    assert [packet.last for packet in packets] == [False] * (len(packets) - 1) + [True]


@every_format
@pytest.mark.parametrize("source", FRAMES)
def test_a_20_ms_packet_leaves_with_the_first_codec_frame(source: int, fmt: OutputFormat) -> None:
    brief = OutputFormat(fmt.codec, fmt.rate, 20, fmt.bitrate)
    packets = AudioOutput(source, brief).push(voice(FRAMES[source], source))
    assert packets and packets[0].position == 0


@pytest.mark.parametrize(("codec", "sample_bytes"), [("pcm_s16le", 2), ("pcm_f32le", 4), ("mulaw", 1), ("alaw", 1)])
def test_a_packet_has_whole_samples_of_its_duration(codec: str, sample_bytes: int) -> None:
    packets = speak(voice(30000, 44100), 44100, OutputFormat(AudioCodec(codec), 8000, frame_ms=30))
    assert {packet.samples for packet in packets[:-1]} == {240}
    assert all(len(packet.payload) == packet.samples * sample_bytes for packet in packets)


def test_equal_rates_pass_every_sample_unfiltered() -> None:
    numbers = np.arange(-32768, 32768, 7).astype("<i2")
    packets = speak((numbers / 32768).astype(np.float32), 22050, OutputFormat(AudioCodec.PCM_S16LE, 22050))
    assert payloads(packets) == numbers.tobytes()


@pytest.mark.parametrize("rate", [48000, 24000, 16000, 8000])
def test_no_border_shows_in_the_samples(rate: int) -> None:
    samples = voice(30 * 1024, 22050)
    whole = converted(samples, 22050, rate)
    assert payloads(speak(samples, 22050, OutputFormat(AudioCodec.PCM_S16LE, rate))) == to_int16(whole).tobytes()
    assert payloads(speak(samples, 22050, OutputFormat(AudioCodec.PCM_F32LE, rate))) == whole.tobytes()


def test_telephone_formats_are_the_companded_16_bit_samples() -> None:
    samples = voice(30 * 1024, 22050)
    pcm = to_int16(converted(samples, 22050, 8000))
    assert payloads(speak(samples, 22050, OutputFormat(AudioCodec.MULAW, 8000))) == encode_mulaw(pcm)
    assert payloads(speak(samples, 22050, OutputFormat(AudioCodec.ALAW, 8000))) == encode_alaw(pcm)


def test_16_bit_samples_are_rounded_half_to_even_and_clipped() -> None:
    steps = np.array([0.0, 0.4, 0.5, 0.6, 1.5, 2.5, -0.5, -1.5, 32767.4, 32768, 40000, -32768, -40000], np.float32)
    expected = [0, 0, 0, 1, 2, 2, 0, -2, 32767, 32767, 32767, -32768, -32768]
    assert to_int16(steps / np.float32(32768)).tolist() == expected


def test_float_samples_keep_what_exceeds_full_scale() -> None:
    packets = speak(np.full(3000, 1.25, np.float32), 22050, OutputFormat(AudioCodec.PCM_F32LE, 22050))
    assert set(np.frombuffer(payloads(packets), "<f4").tolist()) == {1.25}


@pytest.mark.parametrize("frame_ms", [10, 20, 40, 60])
@pytest.mark.parametrize("n", [1, 500, 22050, 30 * 1024])
def test_an_opus_client_hears_exactly_the_turn(frame_ms: int, n: int) -> None:
    fmt, samples = OutputFormat(frame_ms=frame_ms, bitrate=64000), voice(n, 22050)
    packets = speak(samples, 22050, fmt)
    heard = heard_by_an_opus_client(packets, AudioOutput(22050, fmt).pre_skip)
    assert len(heard) == -(-n * 48000 // 22050)
    if n > 10000:
        assert np.corrcoef(heard, converted(samples, 22050, 48000))[0, 1] > 0.95


def test_the_end_of_the_turn_survives_in_opus() -> None:
    samples = np.zeros(22050, np.float32)
    samples[-441:] = voice(22050, 22050)[5000:5441]  # sound in the last 20 ms alone
    packets = speak(samples, 22050, OutputFormat(bitrate=64000))
    heard, sent = heard_by_an_opus_client(packets, 312)[-960:], converted(samples, 22050, 48000)[-960:]
    assert np.corrcoef(heard, sent)[0, 1] > 0.8
    assert 0.5 < np.std(heard) / np.std(sent) < 1.5


def test_opus_positions_count_without_the_pre_skip() -> None:
    packets = speak(voice(8 * 1024, 22050), 22050, OutputFormat())
    assert [packet.position for packet in packets[:4]] == [0, 648, 1608, 2568]
    assert AudioOutput(22050, OutputFormat()).pre_skip == 312
    assert AudioOutput(22050, OutputFormat(AudioCodec.PCM_S16LE, 48000)).pre_skip == 0


def test_every_turn_gets_an_encoder_of_its_own() -> None:
    samples = voice(8 * 1024, 22050)
    speak(voice(5000, 44100), 44100, OutputFormat())
    assert speak(samples, 22050, OutputFormat()) == speak(samples, 22050, OutputFormat())


def test_the_opus_bitrate_acts() -> None:
    samples = voice(60 * 1024, 22050)
    small, usual, large = (len(payloads(speak(samples, 22050, OutputFormat(bitrate=b)))) for b in (12000, None, 64000))
    assert small < 0.6 * usual < 0.6 * 0.6 * large


@every_format
def test_a_turn_without_samples_has_no_packets(fmt: OutputFormat) -> None:
    output = AudioOutput(22050, fmt)
    assert output.push(np.zeros(0, np.float32)) == [] and output.finish() == []


def test_a_buffer_may_be_reused_after_it_was_pushed() -> None:
    fmt, samples, buffer = OutputFormat(AudioCodec.PCM_S16LE, 22050), voice(4000, 22050), np.zeros(100, np.float32)
    output, packets = AudioOutput(22050, fmt), []
    for at in range(0, 4000, 100):
        buffer[:] = samples[at : at + 100]
        packets += output.push(buffer)
        buffer[:] = 1.0
    assert packets + output.finish() == speak(samples, 22050, fmt)


def test_a_view_with_gaps_is_as_good_as_a_copy() -> None:
    stereo = np.stack([voice(5000, 22050), np.zeros(5000, np.float32)], axis=1)
    fmt = OutputFormat(AudioCodec.PCM_S16LE, 8000)
    assert speak(stereo[:, 0], 22050, fmt) == speak(voice(5000, 22050), 22050, fmt)


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        (np.zeros(8), "float64"),
        (np.zeros(8, np.int16), "int16"),
        (np.zeros((8, 1), np.float32), r"\[8, 1\]"),
        (np.array([0.0, np.nan], np.float32), "finite"),
        (np.array([np.inf], np.float32), "finite"),
    ],
)
def test_samples_that_are_none_are_refused(samples: npt.NDArray[np.float32], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AudioOutput(22050, OutputFormat(AudioCodec.PCM_S16LE, 22050)).push(samples)


def test_nothing_follows_the_end() -> None:
    output = AudioOutput(22050, OutputFormat())
    output.finish()
    with pytest.raises(AssertionError, match="after finish"):
        output.push(np.zeros(8, np.float32))
    with pytest.raises(AssertionError, match="twice"):
        output.finish()


@pytest.mark.parametrize(
    ("codec", "rate", "frame_ms", "bitrate", "said"),
    [
        ("opus", 24000, 20, None, "opus is sent at 48000 Hz, not 24000"),
        ("opus", 48000, 30, None, "opus packets last 10, 20, 40, 60 ms, not 30"),
        ("opus", 48000, 20, 100, r"bitrate 100 is outside 6000\.\.510000 bit/s"),
        ("pcm_s16le", 24000, 20, 32000, "bitrate is for opus; pcm_s16le has a fixed one"),
        ("pcm_s16le", 7975, 20, None, r"rate 7975 is not a multiple of 25 in 8000\.\.48000 Hz"),
        ("pcm_f32le", 48025, 20, None, r"rate 48025 is not a multiple of 25 in 8000\.\.48000 Hz"),
        ("pcm_f32le", 22051, 20, None, r"rate 22051 is not a multiple of 25 in 8000\.\.48000 Hz"),
        ("pcm_s16le", 24000, 9, None, r"frame_ms 9 is outside 10\.\.100"),
        ("pcm_s16le", 24000, 101, None, r"frame_ms 101 is outside 10\.\.100"),
        ("mulaw", 16000, 20, None, "mulaw is sent at 8000 Hz, not 16000"),
        ("alaw", 16000, 20, None, "alaw is sent at 8000 Hz, not 16000"),
    ],
)
def test_a_format_that_is_not_offered_is_refused(
    codec: str, rate: int, frame_ms: int, bitrate: int | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        OutputFormat(AudioCodec(codec), rate, frame_ms, bitrate)


@every_format
def test_a_long_turn_holds_back_less_than_a_packet(fmt: OutputFormat) -> None:
    output, samples = AudioOutput(22050, fmt), voice(1024, 22050)
    for _ in range(50):
        output.push(samples)
        assert len(output._waiting) <= fmt.packet_samples


def test_without_libopus_only_opus_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    opus._opuslib.cache_clear()
    assert speak(voice(3000, 22050), 22050, OutputFormat(AudioCodec.PCM_S16LE, 48000))
    with pytest.raises(OpusUnavailable, match="apt-get install libopus0"):
        AudioOutput(22050, OutputFormat())
    opus._opuslib.cache_clear()


def test_pcm_needs_neither_opuslib_nor_soxr_nor_torch() -> None:
    program = """
import sys
sys.modules.update({"opuslib": None, "soxr": None, "torch": None})
import numpy as np
from realtime.audio import AudioCodec, AudioOutput, OutputFormat
output = AudioOutput(22050, OutputFormat(AudioCodec.MULAW, 8000))
assert output.push(np.zeros(1024, np.float32)) and output.finish()[-1].last
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True, timeout=180)


def spoken_at(speed: float, volume_db: float, fmt: OutputFormat, sizes: list[int]) -> list[AudioPacket]:
    output, packets, at, turn = AudioOutput(22050, fmt, speed, volume_db), [], 0, 0
    samples = voice(30000, 22050)
    while at < len(samples):
        size = sizes[turn % len(sizes)]
        packets += output.push(samples[at : at + size])
        at, turn = at + size, turn + 1
    return packets + output.finish()


@every_format
@pytest.mark.parametrize("speed", [0.25, 0.9, 4.0])
def test_a_faster_or_slower_turn_is_exact_in_length_and_position(speed: float, fmt: OutputFormat) -> None:
    packets = spoken_at(speed, 6.0, fmt, [1024])
    assert packets[0].position == 0
    assert all(before.position + before.samples == after.position for before, after in pairwise(packets))
    stretched = round(30000 / speed)
    assert packets[-1].position + packets[-1].samples == -(-stretched * fmt.rate // 22050)
    assert [packet.last for packet in packets] == [False] * (len(packets) - 1) + [True]


@given(sizes=st.lists(st.integers(1, 4000), min_size=1, max_size=5), speed=st.sampled_from((0.5, 1.0, 1.7)))
@settings(max_examples=20, deadline=None)
def test_speed_and_volume_do_not_show_the_pieces(sizes: list[int], speed: float) -> None:
    fmt = OutputFormat(AudioCodec.PCM_S16LE, 24000)
    assert payloads(spoken_at(speed, 9.0, fmt, sizes)) == payloads(spoken_at(speed, 9.0, fmt, [1024]))


def test_the_two_times_of_a_turn_are_each_other_s_inverse() -> None:
    output = AudioOutput(22050, OutputFormat(AudioCodec.PCM_S16LE, 22050), speed=1.6)
    assert output.output_ms(1600.0) == 1000.0
    assert output.generated_ms(1000.0) == 1600.0


def test_a_packet_says_how_loud_it_is() -> None:
    fmt = OutputFormat(AudioCodec.PCM_S16LE, 22050)
    sine = (0.1 * np.sqrt(2) * np.sin(2 * np.pi * 500 * np.arange(22050) / 22050)).astype(np.float32)
    output = AudioOutput(22050, fmt, volume_db=-10.0)
    assert {round(packet.level_db) for packet in output.push(sine)} == {-30}
    silent = AudioOutput(22050, fmt)
    assert {packet.level_db for packet in silent.push(np.zeros(22050, np.float32))} == {-100.0}


def test_a_speed_or_volume_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="speed"):
        AudioOutput(22050, OutputFormat(AudioCodec.PCM_S16LE, 22050), speed=5.0)
    with pytest.raises(ValueError, match="volume_db"):
        AudioOutput(22050, OutputFormat(AudioCodec.PCM_S16LE, 22050), volume_db=21.0)

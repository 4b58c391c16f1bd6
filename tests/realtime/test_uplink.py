"""Messages become samples: formats, positions, gaps, and when a sample was recorded."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.commands import UplinkFormat
from realtime.audio import to_int16
from realtime.g711 import encode_alaw, encode_mulaw
from realtime.opus import OpusEncoder
from realtime.uplink import MAX_FILLED_S, RecordingClock, Uplink, UplinkAudio
from tests.realtime.hearing_fixtures import recorded

PCM16 = UplinkAudio(UplinkFormat.PCM_S16LE, 16_000)
PCM8 = UplinkAudio(UplinkFormat.PCM_S16LE, 8_000)


def pcm(samples: int, value: int = 1000) -> bytes:
    return np.full(samples, value, "<i2").tobytes()


def test_pcm_at_16_khz_passes_unchanged() -> None:
    samples = Uplink(PCM16, 100).push(np.array([0, 16384, -32768], "<i2").tobytes(), None)
    assert samples.tolist() == [0.0, 0.5, -1.0]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 800), min_size=1, max_size=12), st.sampled_from([8_000, 24_000, 44_100, 48_000]))
def test_how_the_sound_is_cut_into_messages_changes_nothing(sizes: list[int], rate: int) -> None:
    sound = to_int16(recorded("stop")[: sum(sizes)]).astype("<i2")
    audio = UplinkAudio(UplinkFormat.PCM_S16LE, rate)
    cut, whole = Uplink(audio, 100), Uplink(audio, 100)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(cut.push(sound[at : at + size].tobytes(), at))
        at += size
    step = rate // 20
    expected = [whole.push(sound[start : start + step].tobytes(), None) for start in range(0, len(sound), step)]
    assert np.array_equal(np.concatenate(pieces), np.concatenate(expected))


@pytest.mark.parametrize(
    ("codec", "snr_db"), [(UplinkFormat.MULAW, 30), (UplinkFormat.ALAW, 30), (UplinkFormat.PCM_S16LE, 70)]
)
def test_a_telephones_sound_comes_through(codec: UplinkFormat, snr_db: float) -> None:
    when = np.arange(8_000) / 8_000
    tone = to_int16((0.5 * np.sin(2 * np.pi * 440 * when)).astype(np.float32))
    encode = {UplinkFormat.MULAW: encode_mulaw, UplinkFormat.ALAW: encode_alaw}.get(
        codec, lambda s: s.astype("<i2").tobytes()
    )
    uplink = Uplink(UplinkAudio(codec, 8_000), 100)
    heard = np.concatenate([uplink.push(encode(tone[at : at + 160]), at) for at in range(0, 8_000, 160)])
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(heard)) / 16_000)
    error = (heard - expected)[800:]
    assert 10 * np.log10(np.mean(expected[800:] ** 2) / np.mean(error**2)) > snr_db


def test_opus_packets_count_at_48_khz_and_are_heard_at_16() -> None:
    encoder, uplink = OpusEncoder(20), Uplink(UplinkAudio(UplinkFormat.OPUS, 48_000), 100)
    when = np.arange(48_000) / 48_000
    tone = (0.5 * np.sin(2 * np.pi * 440 * when)).astype(np.float32)
    heard = [uplink.push(encoder.encode(tone[at : at + 960]), at) for at in range(0, 48_000, 960)]
    assert [len(piece) for piece in heard] == [320] * 50
    spectrum = np.abs(np.fft.rfft(np.concatenate(heard)))
    assert np.argmax(spectrum) == 440


def test_a_gap_is_heard_as_silence_of_its_length() -> None:
    uplink = Uplink(PCM16, 100)
    uplink.push(pcm(320), 0)
    samples = uplink.push(pcm(320), 640)
    assert samples.tolist() == [0.0] * 320 + [np.float32(1000 / 32768)] * 320


def test_a_gap_of_hours_costs_no_more_than_it_takes_to_end_speech() -> None:
    uplink = Uplink(PCM8, 100)
    uplink.push(pcm(160), 0)
    assert len(uplink.push(pcm(160), 8_000 * 3600 * 5)) <= 16_000 * (MAX_FILLED_S + 0.1)


def test_sound_that_was_heard_already_is_refused_and_changes_nothing() -> None:
    uplink = Uplink(PCM16, 100)
    uplink.push(pcm(320), 0)
    with pytest.raises(ValueError, match="position 319 was heard already; 320 or later is next"):
        uplink.push(pcm(320), 319)
    assert len(uplink.push(pcm(320), 320)) == 320


@pytest.mark.parametrize(
    ("codec", "rate", "payload", "complaint"),
    [
        (UplinkFormat.PCM_S16LE, 16_000, b"abc", "3 bytes are no whole number"),
        (UplinkFormat.PCM_S16LE, 16_000, pcm(1601), "a message of 100 ms is longer than uplink_ms=100"),
        (UplinkFormat.MULAW, 8_000, b"x" * 801, "longer than uplink_ms=100"),
        (UplinkFormat.OPUS, 48_000, b"\xff" * 7, "broken Opus packet"),
    ],
)
def test_what_cannot_be_read_is_refused_and_the_next_message_is_heard(
    codec: UplinkFormat, rate: int, payload: bytes, complaint: str
) -> None:
    good = {
        UplinkFormat.PCM_S16LE: pcm(320),
        UplinkFormat.MULAW: b"x" * 160,
        UplinkFormat.OPUS: OpusEncoder().encode(np.zeros(960, np.float32)),
    }
    uplink = Uplink(UplinkAudio(codec, rate), 100)
    with pytest.raises(ValueError, match=complaint):
        uplink.push(payload, 0)
    assert len(uplink.push(good[codec], 0)) > 0


@pytest.mark.parametrize(
    ("codec", "rate"), [(UplinkFormat.OPUS, 16_000), (UplinkFormat.MULAW, 16_000), (UplinkFormat.PCM_S16LE, 8_001)]
)
def test_rates_that_a_format_does_not_have_are_refused(codec: UplinkFormat, rate: int) -> None:
    with pytest.raises(ValueError, match=str(rate)):
        UplinkAudio(codec, rate)


def test_the_fastest_messages_tell_when_all_of_them_were_recorded() -> None:
    clock = RecordingClock()
    late = (0.30, 0.05, 0.12, 0.05, 0.25)  # of each message's arrival
    starts = [clock.arrived((index + 1) * 0.02, 100.0 + (index + 1) * 0.02 + by) for index, by in enumerate(late)]
    assert starts[0] == pytest.approx(100.30)
    assert starts[1:] == pytest.approx([100.05] * 4, abs=1e-3)


def test_a_recording_that_was_paused_without_a_word_goes_on_later() -> None:
    clock = RecordingClock()
    clock.arrived(0.02, 100.02)
    assert clock.arrived(0.04, 130.04) == pytest.approx(130.0)


def test_a_clock_that_runs_slower_than_ours_is_followed() -> None:
    clock = RecordingClock()
    for index in range(1, 50 * 600):  # ten minutes at 0.05 % too slow: 0.3 s late at the end
        start = clock.arrived(index * 0.02, 100.0 + index * 0.02 * 1.0005)
    assert start == pytest.approx(100.3, abs=0.01)

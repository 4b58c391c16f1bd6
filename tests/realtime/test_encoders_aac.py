"""AAC, which an optional package encodes, heard through ffmpeg."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.encoders import FormatRefused, encoder_for, formats
from realtime.encoders.aac import AAC_RATES_HZ

pytest.importorskip("av", reason="needs the optional extra `aac`")

Samples = npt.NDArray[np.float32]
DELAY = 1024  # samples of silence that an ADTS stream begins with


def voice(count: int, rate: int) -> Samples:
    when = np.arange(count) / rate
    chirp = np.sin(2 * np.pi * (200 * when + 500 * when**2)) * np.sin(np.pi * 3 * when) ** 2
    return (0.4 * chirp).astype(np.float32)


def stream(said: Samples, rate: int, cuts: list[int]) -> bytes:
    encoder = encoder_for("aac", sample_rate=rate)
    return b"".join([*(encoder.push(piece) for piece in np.split(said, cuts)), encoder.finish()])


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("rate", AAC_RATES_HZ)
def test_a_stream_holds_all_of_it_behind_the_encoders_delay(rate: int, tmp_path: Path) -> None:
    said = voice(rate // 2 + 5, rate)
    path = tmp_path / "sound.aac"
    path.write_bytes(stream(said, rate, []))

    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "f32le", "-ar", str(rate), "-"]
    got = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<f4")

    assert len(got) % 1024 == 0
    assert 0 <= len(got) - DELAY - len(said) < 2 * 1024
    there = got[DELAY : DELAY + len(said)]
    assert np.sqrt(np.mean((there - said) ** 2) / np.mean(said**2)) < 0.1


def test_every_frame_has_a_header_with_its_length_and_rate() -> None:
    data, frames = stream(voice(24_000, 24_000), 24_000, []), 0
    while data:
        assert data[:2] == b"\xff\xf1"  # MPEG-4, no checksum
        assert data[2] >> 2 & 15 == 6  # 24 kHz
        size = (data[3] & 3) << 11 | data[4] << 3 | data[5] >> 5
        assert 7 < size <= len(data)
        data, frames = data[size:], frames + 1

    assert frames == 24_000 // 1024 + 2  # the last one filled up, and the delay


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_however_samples_are_cut_the_bytes_are_the_same(data: st.DataObject) -> None:
    said = voice(data.draw(st.integers(0, 6000)), 24_000)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=20)))

    assert stream(said, 24_000, cuts) == stream(said, 24_000, [])


def test_a_bitrate_beyond_what_a_frame_can_hold_is_refused() -> None:
    with pytest.raises(FormatRefused, match=r"8000..48000 bit/s"):
        encoder_for("aac", sample_rate=8000, bitrate=64_000)


def test_it_is_listed_as_available() -> None:
    assert {info.name: info.unavailable for info in formats()}["aac"] is None

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from realtime.recording_file import MAX_BYTES, RecordingRefused, load, read, samples_of
from tests.realtime.speechlike import RATE, clean, file


@pytest.mark.parametrize(
    ("kind", "subtype", "encoding", "lossy"),
    [
        ("WAV", "PCM_16", "PCM 16", False),
        ("WAV", "FLOAT", "FLOAT", False),
        ("FLAC", "PCM_24", "PCM 24", False),
        ("AIFF", "PCM_16", "PCM 16", False),
        ("MP3", "MPEG_LAYER_III", "MP3", True),
        ("OGG", "VORBIS", "Ogg Vorbis", True),
        ("OGG", "OPUS", "Ogg Opus", True),
        ("WAV", "ALAW", "A-law", True),
        ("WAV", "IMA_ADPCM", "IMA ADPCM", True),
    ],
)
def test_files_of_many_kinds_are_read(kind: str, subtype: str, encoding: str, lossy: bool) -> None:
    found = read(file(clean(4.0), RATE, kind, subtype))
    assert (found.origin.encoding, found.origin.lossy, found.rate) == (encoding, lossy, RATE)
    assert len(found.samples) == pytest.approx(4 * RATE, abs=2500)
    assert found.samples.dtype == np.float32


def test_channels_are_mixed_and_the_peak_is_the_highest_of_any() -> None:
    found = read(file(np.stack([clean(4.0) * 2, clean(4.0) * 0], axis=1), subtype="FLOAT"))
    assert np.allclose(found.samples, clean(4.0), atol=1e-6)
    assert found.measures.peak == pytest.approx(0.8, abs=0.02) and found.origin.channels == 2


def test_samples_alone_are_the_same_without_the_measures() -> None:
    data = file(clean(4.0))
    samples, rate = samples_of(data)
    assert rate == RATE and (samples == read(data).samples).all()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no sound that can be read; WAV, FLAC"),
        (b"To be or not to be", "is no sound that can be read"),
        (file(clean(4.0))[:60], "is 0.0 s long"),
        (file(clean(2.9)), "is 2.9 s long; a reference has 3 s at least"),
        (file(clean(61.0)), "is longer than 60 s; cut out 10 to 30 s"),
        (file(np.zeros(4 * RATE)), "is silent; was it the right microphone"),
        (file(1e-4 * clean(4.0)), "is silent"),
        (file(np.stack([clean(4.0), -clean(4.0)], axis=1)), "is silent; its channels cancel each other"),
        (file(np.where(np.arange(4 * RATE) == 777, np.nan, clean(4.0)), subtype="FLOAT"), "samples that are no numbers"),
        (file(np.where(np.arange(4 * RATE) == 777, np.inf, clean(4.0)), subtype="FLOAT"), "samples that are no numbers"),
        (file(np.zeros((4 * RATE, 17))), "has 17 channels; 16 are the most"),
        (file(clean(4.0), 4_000), "has a sample rate of 4000 Hz"),
        (file(clean(4.0), 384_000), "has a sample rate of 384000 Hz"),
    ],
)  # fmt: skip
def test_what_can_be_no_reference_is_refused_in_words(data: bytes, why: str) -> None:
    with pytest.raises(RecordingRefused, match=why):
        read(data)


def test_no_more_is_decoded_than_may_be_used() -> None:
    """A FLAC of silence is a bomb: an hour in some kilobytes. It is given up after a minute of it."""
    bomb = file(np.zeros(600 * 8_000), 8_000, "FLAC", "PCM_16")
    assert len(bomb) < 100_000
    with pytest.raises(RecordingRefused, match="is longer than 60 s"):
        samples_of(bomb)


def test_a_header_that_lies_about_the_length_gives_what_is_there() -> None:
    data = bytearray(file(clean(4.0)))
    data[40:44] = struct.pack("<I", 2**31)
    assert len(samples_of(bytes(data))[0]) == 4 * RATE


def test_a_large_file_is_not_even_read_to_its_end(tmp_path: Path) -> None:
    with (tmp_path / "large.wav").open("wb") as large:
        large.truncate(2 * MAX_BYTES)
    data = load(tmp_path / "large.wav")
    assert len(data) == MAX_BYTES + 1
    with pytest.raises(RecordingRefused, match="has more than 64 MB"):
        read(data)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingRefused, match="cannot be read: No such file"):
        load(tmp_path / "none.wav")
    with pytest.raises(RecordingRefused, match="cannot be read: Is a directory"):
        load(tmp_path)

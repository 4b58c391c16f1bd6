"""Streams of every format, heard through ffmpeg, which shares no code with what wrote them (libsndfile, libopus, our own pages).

What a format loses is measured, what it must keep is not: the first sample stands first, none is missing, and pieces leave no trace.
"""

import gc
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime.audio import to_int16
from realtime.encoders import (
    Encoder,
    FormatRefused,
    FormatUnavailable,
    encoder_for,
    formats,
    nearest_bitrate,
    whole_file,
)
from realtime.encoders.mp3 import MP3_RATES_HZ, info_frame, mp3_bitrates
from realtime.encoders.ogg_opus import OggOpusEncoder

Samples = npt.NDArray[np.float32]

EXACT = ("pcm", "pcm_f32le", "wav", "flac", "opus", "mulaw", "alaw")  # decode to as many samples as went in
LOSSLESS = ("pcm", "wav", "flac")
RAW = {"pcm": "s16le", "pcm_f32le": "f32le", "mulaw": "mulaw", "alaw": "alaw"}  # ffmpeg's name of what has no header
NAMES = (*EXACT, "mp3")

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


def voice(count: int, rate: int) -> Samples:
    """Harmonics of a gliding pitch under syllables: speech as far as an encoder cares."""
    when = np.arange(count) / rate
    phase = 2 * np.pi * np.cumsum(140 + 30 * np.sin(2 * np.pi * 0.7 * when)) / rate
    harmonics = sum((np.sin(n * phase) / n**1.3 for n in range(1, 20)), np.zeros(count))
    samples: Samples = (0.25 * harmonics * (0.1 + np.sin(np.pi * 4 * when) ** 2)).astype(np.float32)
    return samples


def new(name: str, rate: int | None = None) -> Encoder:
    """An encoder whose bytes depend on nothing but the samples."""
    return OggOpusEncoder(48000, serial=7) if name == "opus" else encoder_for(name, sample_rate=rate)


def stream(encoder: Encoder, pieces: list[Samples]) -> bytes:
    return b"".join([*(encoder.push(piece) for piece in pieces), encoder.finish()])


def heard(data: bytes, name: str, rate: int, folder: Path | None = None) -> Samples:
    """What ffmpeg makes of a file in `folder`, or of what comes through a pipe, as a response does."""
    raw = ["-f", RAW[name], "-ar", str(rate), "-ac", "1"] if name in RAW else []
    source = "-" if folder is None else str(folder / f"sound.{name}")
    if folder is not None:
        Path(source).write_bytes(data)
    command = ["ffmpeg", "-v", "error", *raw, "-i", source, "-f", "f32le", "-ar", str(rate), "-"]
    decoded = subprocess.run(command, input=b"" if folder else data, capture_output=True, check=True)
    return np.frombuffer(decoded.stdout, "<f4")


def lag(said: Samples, got: Samples) -> int:
    """By how many samples `got` comes later."""
    size = 2 * max(len(said), len(got))
    correlation = np.fft.irfft(np.fft.rfft(got, size) * np.conj(np.fft.rfft(said, size)), size)
    at = int(correlation.argmax())
    return at if at < size // 2 else at - size


def noise_db(said: Samples, got: Samples) -> float:
    """What was lost, relative to what was said."""
    rms = np.sqrt(np.mean((got[: len(said)] - said) ** 2) / np.mean(said**2))
    return float(20 * np.log10(rms + 1e-9))


@needs_ffmpeg
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("piped", [True, False], ids=["pipe", "file"])
def test_a_stream_decodes_to_what_was_said_from_its_first_sample_on(name: str, piped: bool, tmp_path: Path) -> None:
    encoder = new(name)
    said = voice(encoder.sample_rate + 123, encoder.sample_rate)

    got = heard(stream(encoder, np.array_split(said, 37)), name, encoder.sample_rate, None if piped else tmp_path)

    assert lag(said, got) == 0
    assert noise_db(said, got) < -15
    if name in EXACT:
        assert len(got) == len(said)
    if name in LOSSLESS:
        assert np.array_equal(got * 32768, to_int16(said))


@needs_ffmpeg
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("count", [1, 311, 960, 1152, 2568, 4800])
def test_a_whole_file_has_exactly_as_many_samples_as_were_said(name: str, count: int, tmp_path: Path) -> None:
    rate = encoder_for(name).sample_rate

    assert len(heard(whole_file(name, voice(count, rate)), name, rate, tmp_path)) == count


@needs_ffmpeg
@pytest.mark.parametrize("name", NAMES)
def test_a_stream_and_a_file_sound_the_same(name: str, tmp_path: Path) -> None:
    rate = encoder_for(name).sample_rate
    said = voice(rate // 2, rate)

    streamed = heard(stream(new(name), [said]), name, rate, tmp_path)
    filed = heard(whole_file(name, said), name, rate, tmp_path)

    assert np.array_equal(streamed[: len(filed)], filed)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_however_samples_are_cut_the_bytes_are_the_same(name: str, data: st.DataObject) -> None:
    said = voice(data.draw(st.integers(0, 9000)), encoder_for(name).sample_rate)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=30)))

    assert stream(new(name), np.split(said, cuts)) == stream(new(name), [said])


@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
def test_soundfile_reads_whole_files_too(name: str, tmp_path: Path) -> None:
    path = tmp_path / "sound"
    path.write_bytes(whole_file(name, voice(30_000, 48000), sample_rate=48000))

    assert soundfile.info(str(path)).frames == 30_000


@needs_ffmpeg
@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
def test_a_stream_of_nothing_is_a_file(name: str, tmp_path: Path) -> None:
    encoder = new(name)

    silence = heard(encoder.push(np.zeros(0, np.float32)) + encoder.finish(), name, encoder.sample_rate, tmp_path)

    assert not silence.any()


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_may_be_dropped_at_any_time(name: str) -> None:
    """libsndfile completes its file when it is let go of; where that raises, pytest fails the test."""
    for pushes in 0, 1, 5:
        encoder = new(name)
        for _ in range(pushes):
            encoder.push(voice(3000, encoder.sample_rate))
        del encoder
        gc.collect()


# ms of samples until the first bytes of them leave; FLAC's block is 1152 samples, libsndfile's MP3 comes in frames of LAME's.
FIRST_MS = {"pcm": 1, "wav": 1, "mulaw": 1, "alaw": 1, "opus": 20, "flac": 49, "mp3": 40}


@pytest.mark.parametrize("name", FIRST_MS)
def test_the_first_bytes_leave_early_and_more_keep_coming(name: str) -> None:
    encoder = new(name)
    step = encoder.sample_rate // 1000
    said = voice(1000 * step, encoder.sample_rate)
    header = encoder.push(said[:0])

    pushed = [encoder.push(said[at : at + step]) for at in range(0, len(said), step)]

    at_ms = [ms for ms, data in enumerate(pushed, 1) if len(data) > (86 if name == "flac" else 0)]
    assert at_ms[0] <= FIRST_MS[name], f"{len(header)} bytes of header first"
    assert max(np.diff(at_ms), default=0) <= 61


def test_values_beyond_full_scale_clip_instead_of_turning_over() -> None:
    loud = np.array([1.5, -1.5], np.float32)

    assert np.frombuffer(encoder_for("pcm").push(loud), "<i2").tolist() == [32767, -32768]


def test_what_is_no_sound_is_refused() -> None:
    encoder = encoder_for("pcm")
    for wrong in (np.zeros(3), np.zeros((1, 3), np.float32), np.array([np.nan], np.float32)):
        with pytest.raises(ValueError, match="samples must be"):
            encoder.push(wrong)


def test_refusals_say_what_there_is() -> None:
    with pytest.raises(FormatRefused, match=r"no format 'ogg', but pcm, .*opus"):
        encoder_for("ogg")
    with pytest.raises(FormatRefused, match="mp3 has no 16001 Hz, but 8000, 11025"):
        encoder_for("mp3", sample_rate=16001)
    with pytest.raises(FormatRefused, match=r"wav has no 96000 Hz, but 8000..48000 Hz in steps of 25"):
        encoder_for("wav", sample_rate=96000)
    with pytest.raises(
        FormatRefused, match=r"mp3 at 24000 Hz has no bitrate of 192000 bit/s, but 8000, .* 160000 bit/s"
    ):
        encoder_for("mp3", sample_rate=24000, bitrate=192_000)
    with pytest.raises(FormatRefused, match="nothing to choose"):
        encoder_for("flac", bitrate=64000)


def test_the_nearest_bitrate_is_one_that_is_taken() -> None:
    assert nearest_bitrate("mp3", 24000, 192_000) == 160_000
    assert nearest_bitrate("mp3", 44100, 120_000) == 112_000
    assert nearest_bitrate("opus", 48000, 1_000_000) == 510_000
    assert nearest_bitrate("wav", 24000, 64_000) is None


def test_every_format_is_listed_with_what_it_takes() -> None:
    listed = {info.name: info for info in formats()}

    assert set(listed) == {*NAMES, "aac"}
    for name in NAMES:
        info, encoder = listed[name], encoder_for(name)
        assert info.unavailable is None
        assert (info.media_type, info.extension) == (encoder.media_type, encoder.extension)
        assert (info.name, info.default_rate) == (encoder.name, encoder.sample_rate)
        for rate in info.rates[0], info.rates[-1]:
            for bitrate in (*info.bitrates(rate)[:1], *info.bitrates(rate)[-1:]):
                assert encoder_for(name, sample_rate=rate, bitrate=bitrate).sample_rate == rate


def test_mp3_without_a_library_that_has_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soundfile, "available_formats", lambda: {"WAV": ""})

    with pytest.raises(FormatUnavailable, match=r"mp3 output needs libsndfile 1\.1 or newer: pip install"):
        encoder_for("mp3")


def test_aac_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)

    with pytest.raises(FormatUnavailable, match=r"aac output needs the Python package av: pip install 'parley\[aac\]'"):
        encoder_for("aac")
    assert {info.name: info.unavailable for info in formats()}["aac"] is not None


class TestMp3:
    @needs_ffmpeg
    @pytest.mark.parametrize("rate", MP3_RATES_HZ)
    def test_a_stream_begins_exactly_and_ends_within_two_frames(self, rate: int, tmp_path: Path) -> None:
        said = voice(rate // 2 + 77, rate)

        got = heard(stream(encoder_for("mp3", sample_rate=rate), [said]), "mp3", rate, tmp_path)

        assert lag(said, got) == 0
        assert 0 <= len(got) - len(said) < 2 * 1152

    @pytest.mark.parametrize("rate", MP3_RATES_HZ)
    def test_every_bitrate_is_the_one_in_the_frames_and_every_frame_is_whole(self, rate: int) -> None:
        for bitrate in mp3_bitrates(rate):
            said = voice(rate // 4, rate)
            encoder = encoder_for("mp3", sample_rate=rate, bitrate=bitrate)
            data = stream(encoder, [said])
            frames = frames_of(data[len(encoder.known_start()) :])
            assert {frame.bitrate for frame in frames} == {bitrate}
            assert {frame.rate for frame in frames} == {rate}
            # As LAME counts them: what decoders do not play, the stream, and what fills the last frame.
            assert len(frames) * frames[0].samples >= len(said) + 576
            assert encoder.known_start() == info_frame(
                rate, len(frames), sum(f.bytes for f in frames), len(frames) * frames[0].samples - 576 - len(said)
            )

    @pytest.mark.parametrize("rate", MP3_RATES_HZ)
    def test_the_file_tells_what_lame_tells_of_its_own(self, rate: int, tmp_path: Path) -> None:
        """Its info frame exists for large bitrates; the fields that ours has must be its."""
        said, bitrate = voice(rate // 3, rate), mp3_bitrates(rate)[-1]
        path = tmp_path / "lame.mp3"
        soundfile.write(path, to_int16(said), rate, format="MP3", compression_level=0.0, bitrate_mode="CONSTANT")
        theirs = path.read_bytes()
        ours = whole_file("mp3", said, sample_rate=rate, bitrate=bitrate)

        at, own = theirs.index(b"Info"), ours.index(b"Info")
        assert ours[own + 8 : own + 12] == theirs[at + 8 : at + 12]  # frames
        assert ours[own + 16 + 21 : own + 16 + 24] == theirs[at + 120 + 21 : at + 120 + 24]  # delay and padding
        assert ours[len(info_frame(rate)) :] == theirs[frames_of(theirs)[0].bytes :]


class Frame:
    """An MP3 frame's header, read from the tables in ISO/IEC 11172-3 and 13818-3."""

    V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)

    def __init__(self, header: bytes) -> None:
        assert header[0] == 0xFF and header[1] & 0xE6 == 0xE2, "no frame of layer III begins here"
        version = {3: 1, 2: 2, 0: 4}[header[1] >> 3 & 3]
        self.bitrate = 1000 * (self.V1 if version == 1 else self.V2)[header[2] >> 4]
        self.rate = (44100, 48000, 32000)[header[2] >> 2 & 3] // version
        self.samples = 1152 if version == 1 else 576
        self.bytes = self.samples // 8 * self.bitrate // self.rate + (header[2] >> 1 & 1)


def frames_of(data: bytes) -> list[Frame]:
    frames, at = [], 0
    while at < len(data):
        frames.append(Frame(data[at : at + 4]))
        at += frames[-1].bytes
    assert at == len(data), "the last frame is cut off"
    return frames

"""A growing WAV file, read by two readers that are not ours."""

import io
import os
import threading
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile

from realtime.wavefile import WaveWriter

PIECES = [np.arange(size, dtype=np.int16) * 7 - 3000 for size in (1, 0, 441, 960, 2)]


def test_a_file_holds_after_every_write_exactly_what_was_written(tmp_path: Path) -> None:
    path, written = tmp_path / "out.wav", np.zeros(0, np.int16)
    with WaveWriter(path, 22050) as out:
        for piece in PIECES:
            out.write(piece)
            written = np.concatenate((written, piece))
            samples, rate = soundfile.read(path, dtype="int16")
            assert rate == 22050
            assert samples.tolist() == written.tolist()
            with wave.open(str(path)) as reader:
                assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, 22050)
                assert reader.readframes(10**6) == written.astype("<i2").tobytes()
    assert path.stat().st_size == 44 + written.nbytes


def test_a_file_without_sound_is_a_recording_of_no_length(tmp_path: Path) -> None:
    with WaveWriter(tmp_path / "out.wav", 48000):
        pass
    samples, rate = soundfile.read(tmp_path / "out.wav")
    assert (len(samples), rate) == (0, 48000)


def test_a_longer_file_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.wav"
    path.write_bytes(b"x" * 10_000)
    with WaveWriter(path, 8000) as out:
        out.write(PIECES[2])
    assert path.stat().st_size == 44 + PIECES[2].nbytes


def test_a_pipe_gets_a_header_that_sends_its_reader_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    with WaveWriter(path, 16000) as out:
        for piece in PIECES:
            out.write(piece)
    reader.join()
    sound, rate = soundfile.read(io.BytesIO(got[0]), dtype="int16")
    assert rate == 16000
    assert sound.tolist() == np.concatenate(PIECES).tolist()


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        WaveWriter(tmp_path / "none" / "out.wav", 8000)

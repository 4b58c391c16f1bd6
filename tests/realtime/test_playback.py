"""Players: which one is chosen, and a real program at the end of the pipe that writes down what it is given."""

import io
import os
import sys
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import pytest
import soundfile

from realtime.playback import Playback, Player, PlayerFailed, find_player

SAMPLES = (np.arange(30_000) % 2000 - 1000).astype(np.int16)


def program(folder: Path, code: str) -> str:
    path = folder / "player"
    path.write_text(f"#!{sys.executable}\nimport os, signal, sys\n{code}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def recorder(folder: Path) -> str:
    return program(folder, f"open({str(folder / 'heard')!r}, 'wb').write(sys.stdin.buffer.read())")


def test_the_first_player_that_is_installed_is_taken_and_told_the_rate() -> None:
    player = find_player(24000, {"paplay": "/usr/bin/paplay", "ffplay": "/usr/bin/ffplay"}.get)
    assert player is not None
    assert player.command == ("paplay", "--raw", "--format=s16le", "--channels=1", "--rate=24000")


def test_without_a_player_there_is_none() -> None:
    assert find_player(24000, lambda name: None) is None


@pytest.mark.parametrize("name", ["aplay", "paplay", "play"])
def test_a_player_of_raw_samples_is_told_their_rate(name: str) -> None:
    player = find_player(22050, lambda wanted: wanted if wanted == name else None)
    assert player is not None
    assert not player.wants_header
    assert any("22050" in word for word in player.command)


def test_a_player_hears_every_sample_before_finish_returns(tmp_path: Path) -> None:
    async def play() -> None:
        playback = await Playback.start(Player((recorder(tmp_path),), wants_header=False), 22050)
        for start in range(0, len(SAMPLES), 1024):
            await playback.write(SAMPLES[start : start + 1024])
        await playback.finish()

    anyio.run(play)
    assert (tmp_path / "heard").read_bytes() == SAMPLES.astype("<i2").tobytes()


def test_a_player_that_wants_a_header_gets_a_wav_stream(tmp_path: Path) -> None:
    async def play() -> None:
        playback = await Playback.start(Player((recorder(tmp_path),), wants_header=True), 22050)
        await playback.write(SAMPLES)
        await playback.finish()

    anyio.run(play)
    sound, rate = soundfile.read(io.BytesIO((tmp_path / "heard").read_bytes()), dtype="int16")
    assert rate == 22050
    assert sound.tolist() == SAMPLES.tolist()


def test_stop_ends_a_player_that_would_go_on(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    code = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"held = open({str(alive)!r}, 'wb', buffering=0)\n"
        "held.write(b'1')\n"
        "signal.pause()\n"
    )

    async def play() -> bytes:
        playback = await Playback.start(Player((program(tmp_path, code),), wants_header=False), 8000)
        with await anyio.to_thread.run_sync(alive.open, "rb") as pipe:
            begun = pipe.read(1)
            await playback.stop()
            await playback.stop()
            return begun + pipe.read()  # returns when nobody holds the other end any more

    assert anyio.run(play) == b"1"


def test_a_player_that_fails_says_why(tmp_path: Path) -> None:
    path = program(tmp_path, "sys.stdin.buffer.read(10); sys.exit('first line\\naudio open error: no device')")

    async def play() -> None:
        playback = await Playback.start(Player((path,), wants_header=False), 8000)
        while True:
            await playback.write(SAMPLES)

    with pytest.raises(PlayerFailed, match=r"player ended with exit code 1: audio open error: no device$"):
        anyio.run(play)


def test_a_player_that_fails_at_the_end_is_noticed(tmp_path: Path) -> None:
    path = program(tmp_path, "sys.stdin.buffer.read(); sys.exit(3)")

    async def play() -> None:
        playback = await Playback.start(Player((path,), wants_header=False), 8000)
        await playback.write(SAMPLES)
        await playback.finish()

    with pytest.raises(PlayerFailed, match="exit code 3"):
        anyio.run(play)

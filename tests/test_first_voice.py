"""The whole product as a stranger has it: a wheel in an empty folder, the mini served from it, and what its commands write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

pytestmark = pytest.mark.torch

TEXT = "Hello there. [whisper] Can you hear me? This is the third sentence, and it is a little longer than the others."
PATIENCE_S = 240.0  # for a machine that does other things as well; nothing here takes more than a few seconds


@dataclass(frozen=True)
class Stranger:
    """A person with the wheel installed, in a folder that holds nothing else."""

    folder: Path
    packages: Path
    url: str

    def parley(self, *arguments: str) -> subprocess.Popen[bytes]:
        return start(self.packages, self.folder, *arguments, "--url", self.url.replace("http", "ws") + "/v1/live")

    def say(self, *arguments: str) -> tuple[np.ndarray, int]:
        """Run `parley say` to its end; samples and rate of what it wrote."""
        out = self.folder / "out.wav"
        done = self.parley("say", *arguments, "-o", str(out), "--seed", "7")
        _, errors = done.communicate(timeout=PATIENCE_S)
        assert done.returncode == 0, errors.decode()
        samples, rate = soundfile.read(out, dtype="float32")
        return samples, rate


def start(packages: Path, folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "import sys; from realtime.cli import main; sys.exit(main())", *arguments]
    outside = os.environ | {"PYTHONPATH": str(packages), "PYTHONUNBUFFERED": "1"}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=outside, stdin=pipe, stdout=pipe, stderr=pipe)


@pytest.fixture(scope="module")
def stranger(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stranger]:
    folder = tmp_path_factory.mktemp("empty")
    server = start(installed, folder, "serve", "--port", "0")
    assert server.stdout is not None
    url = ""
    for line in server.stdout:
        if b"listening on " in line:
            url = line.decode().split("listening on ")[1].strip()
            break
    assert url, server.communicate(timeout=PATIENCE_S)[1].decode()
    yield Stranger(folder, installed, url)
    server.terminate()
    server.communicate(timeout=PATIENCE_S)
    assert server.returncode == 0


def fetched(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:
        body: bytes = answer.read()
        return body


def test_the_page_and_the_model_are_served(stranger: Stranger) -> None:
    assert b"<title>Parley" in fetched(stranger.url + "/")
    (model,) = json.loads(fetched(stranger.url + "/v1/models"))["data"]
    assert model["id"] == "mini" and "attribution" not in model


def test_say_writes_speech(stranger: Stranger) -> None:
    samples, rate = stranger.say("Hello there. [whisper] Can you hear me?")
    assert 1.0 < samples.size / rate < 6.0
    level_db = 20 * np.log10(np.sqrt(np.mean(samples**2)) + 1e-9)
    assert -40 < level_db < -6
    # Speech comes in syllables: its level goes up and down, which neither noise nor a tone does.
    syllables = samples[: samples.size // (rate // 20) * (rate // 20)].reshape(-1, rate // 20)
    levels_db = 20 * np.log10(np.sqrt(np.mean(syllables**2, axis=1)) + 1e-5)
    assert np.percentile(levels_db, 90) - np.percentile(levels_db, 10) > 12


def test_text_typed_by_the_character_is_spoken_like_text_given_at_once(stranger: Stranger) -> None:
    at_once, _ = stranger.say(TEXT)
    out = stranger.folder / "typed.wav"
    with stranger.parley("say", "-o", str(out), "--seed", "7") as typing:
        assert typing.stdin is not None
        for character in TEXT:
            typing.stdin.write(character.encode())
            typing.stdin.flush()
            wait_until(lambda: True, at_least_s=0.005)
        typing.stdin.close()
        assert typing.wait(PATIENCE_S) == 0
    typed, _ = soundfile.read(out, dtype="float32")
    assert typed.size == at_once.size
    assert np.abs(typed - at_once).max() < 1e-3  # the same codes; the arithmetic may be batched otherwise


def test_sound_comes_before_the_text_ends(stranger: Stranger) -> None:
    out = stranger.folder / "early.wav"
    with stranger.parley("say", "-o", str(out)) as speaking:
        assert speaking.stdin is not None
        speaking.stdin.write(b"Hello there, my friend. And")
        speaking.stdin.flush()
        wait_until(lambda: out.exists() and out.stat().st_size > 10_000)
        speaking.stdin.write(b" that was it.")
        speaking.stdin.close()
        assert speaking.wait(PATIENCE_S) == 0


def wait_until(condition: Callable[[], bool], at_least_s: float = 0.0) -> None:
    """Wait for something another process does."""
    begun = time.monotonic()
    while time.monotonic() - begun < at_least_s or not condition():
        assert time.monotonic() - begun < PATIENCE_S
        time.sleep(0.002)  # real processes have real time


def test_reference_codes_and_sound_go_round_by_hand(stranger: Stranger) -> None:
    def run(*arguments: str) -> None:
        done = start(stranger.packages, stranger.folder, *arguments)
        _, errors = done.communicate(timeout=PATIENCE_S)
        assert done.returncode == 0, errors.decode()

    samples, rate = stranger.say("A reference of a few words.")
    soundfile.write(stranger.folder / "ref.wav", samples, rate)
    run("encode", "ref.wav", "-o", "ref.npy")
    prompt = ["--prompt-text", "A reference of a few words.", "--prompt-codes", "ref.npy"]
    run("generate", "Hello there, my friend.", *prompt, "-o", "codes.npy", "--seed", "7")
    run("decode", "codes.npy", "-o", "spoken.wav")
    reference, codes = (np.load(stranger.folder / name) for name in ("ref.npy", "codes.npy"))
    assert reference.shape[0] == codes.shape[0] and codes.shape[1] > 10
    spoken, _ = soundfile.read(stranger.folder / "spoken.wav")
    assert np.sqrt(np.mean(spoken**2)) > 0.01

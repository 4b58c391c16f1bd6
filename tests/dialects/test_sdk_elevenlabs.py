"""ElevenLabs' SDK, and pipecat's and LiveKit's services for it, speak through Parley with nothing changed but their base URL."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import soundfile
from pydantic import SecretStr

from realtime.scripted import ScriptedEngine
from realtime.settings import Settings
from tests.dialects.sdk import CLIENTS, KEY, PATIENCE_S, PYTHON, Served
from tests.dialects.test_rooms import Noticed
from tests.realtime.sockets import serving

pytestmark = pytest.mark.torch


def spoken(turn: dict[str, Any]) -> str:
    """The words that a client was given times for."""
    return " ".join(word.strip() for word, _ in turn["words"])


def check_times(turn: dict[str, Any]) -> None:
    """Words are spoken one after the other, within the sound."""
    times = [at for _, at in turn["words"]]
    assert times == sorted(times)
    assert turn["audio_s"] / 2 < times[-1] < turn["audio_s"]


def test_two_turns_and_a_barge_in_with_elevenlabs_python(mini: Served, tmp_path: Path) -> None:
    found = mini.client("eleven_sdk", tmp_path)
    one, two, three = found["turns"]
    assert one["audio_s"] > 1.5 and three["audio_s"] > 1
    assert one["took_s"] > one["audio_s"] - 1.3, "it is paced: a lead of one second, and the burst"
    assert 1.4 < two["took_s"] < 3 and two["audio_s"] < 3.5, "it was interrupted"
    assert two["close_s"] < 0.5, "the server lets go at once"
    heard = mini.heard("The young doctor")
    assert heard.startswith("The young doctor found the map in the basket.")
    assert "The captain" in heard and "old pilot" not in heard, "what was not heard is not remembered"
    samples, rate = soundfile.read(tmp_path / "eleven.mp3")
    assert rate == 44_100 and len(samples) > rate
    assert (tmp_path / "eleven.ulaw").stat().st_size > 2000
    timed = found["timed"]
    assert timed["letters"].split() == ["The", "old", "pilot", "sold", "it."]
    assert timed["ends"] == sorted(timed["ends"]) and timed["ends"][-1] <= timed["audio_s"]
    assert found["whole"]["letters"] == timed["letters"] and found["whole"]["audio_s"] > timed["audio_s"] / 2
    assert "default" in found["voices"] and found["found"] == ["default"]
    assert found["refusals"] == [
        ["ApiError", 401, "unauthorized"],
        ["UnprocessableEntityError", 422, "empty_text"],
        ["UnprocessableEntityError", 422, "output_format_not_allowed"],
        ["ApiError", 1008, 1008],
    ]


def client(name: str, *arguments: object, patience_s: float = PATIENCE_S, **environment: str) -> dict[str, Any]:
    """What the program found out, at a server whose engine speaks tones."""
    if not PYTHON.exists():
        pytest.skip("needs the clients of other vendors: make setup-dialects")
    run = subprocess.run(
        [PYTHON, CLIENTS / f"{name}.py", *map(str, arguments)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=patience_s,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_elevenlabs_python_over_tls_needs_no_change_but_its_base_url(tmp_path: Path) -> None:
    settings = Settings(port=0, keys=(SecretStr(KEY),), tls_self_signed=True, tls_dir=tmp_path / "tls")
    # It reads and writes one TLS connection from two threads, as websockets' blocking client does, and then some handshake in a thousand
    # never gets its answer, or never was sent. (Of two thousand by websockets' other client none was lost.)
    tries = 3
    with serving(ScriptedEngine(), settings) as url:
        for left in reversed(range(tries)):
            try:
                found = client(
                    "eleven_sdk",
                    url,
                    tmp_path,
                    KEY,
                    patience_s=PATIENCE_S / 2,
                    SSL_CERT_FILE=str(tmp_path / "tls" / "cert.pem"),
                )
                break
            except subprocess.TimeoutExpired:
                if not left:
                    raise
    assert all(turn["audio_s"] > 1 for turn in found["turns"])


@pytest.mark.parametrize(("name", "what"), [("eleven_pipecat", "dialogue"), ("eleven_livekit", "eleven_v3")])
def test_models_that_have_dialogue_alone_are_spoken_like_others(name: str, what: str, tmp_path: Path) -> None:
    engine = Noticed()
    with serving(engine, Settings(port=0, keys=(SecretStr(KEY),))) as url:
        turns = client(name, url, tmp_path, KEY, what)["turns"]
    assert spoken(turns[0]) == "The young doctor found the map in the basket. The farmer carried the lamp."
    assert spoken(turns[-1]) == "The baker forgot the violin."
    check_times(turns[0])
    check_times(turns[-1])
    heard = engine.histories()
    assert engine.cancelled.is_set() and not any("pilot" in history for history in heard), "it was interrupted"


def test_two_turns_and_a_barge_in_with_pipecat(mini: Served, tmp_path: Path) -> None:
    found = mini.client("eleven_pipecat", tmp_path)
    one, two, three = found["turns"]
    assert not any(turn["errors"] for turn in found["turns"])
    assert spoken(one) == "The young doctor found the map in the basket. The farmer carried the lamp."
    assert spoken(three) == "The baker forgot the violin."
    check_times(one)
    check_times(three)
    assert one["took_s"] > one["audio_s"] - 1.3, "it is paced: a lead of one second, and the burst"
    assert max(turn["longest_gap_s"] for turn in found["turns"]) < 2.5, "pipecat gives a turn up after 3 s of silence"
    assert two["audio_s"] < 3.5 and "pilot" not in spoken(two), "it was interrupted"
    closes = [message["context_id"] for message in found["sent"] if "close_context" in message]
    assert len(closes) == 4 and closes[1] == closes[2], (
        "the interruption is seen, because what is said is not sent at once"
    )
    heard = mini.heard("The young doctor found the map in the basket. The farmer")
    assert "The captain" in heard and "old pilot" not in heard
    assert found["close_s"] < 1.5, "the server closes when it is asked to, before pipecat loses its patience"


def test_two_turns_and_a_barge_in_with_pipecat_over_http(mini: Served, tmp_path: Path) -> None:
    found = mini.client("eleven_pipecat", tmp_path, "http")
    one, two, three = found["turns"]
    assert not any(turn["errors"] for turn in found["turns"])
    assert spoken(one) == "The young doctor found the map in the basket. The farmer carried the lamp."
    assert spoken(three) == "The baker forgot the violin."
    check_times(three)
    assert two["audio_s"] < 3.5 and "pilot" not in spoken(two), "it was interrupted"
    heard = mini.heard("The young doctor found the map in the basket. The farmer")
    assert "The captain" in heard and "old pilot" not in heard


def test_turns_and_barge_ins_with_livekit(mini: Served, tmp_path: Path) -> None:
    found = mini.client("eleven_livekit", tmp_path)
    one, two, three, four = found["turns"]
    assert spoken(one) == "The young doctor found the map in the basket. The farmer carried the lamp."
    assert spoken(four) == "The baker forgot the violin."
    check_times(one)
    check_times(four)
    assert one["took_s"] > one["audio_s"] - 1.3, "it is paced: a lead of one second, and the burst"
    assert two["audio_s"] < 3 and "pilot" not in spoken(two), "it was interrupted while it was written"
    assert three["audio_s"] < 3 and "pilot" not in spoken(three), (
        "it was interrupted, and LiveKit said nothing about it"
    )
    assert four["first_s"] < 3, "so what is abandoned ends with the next words, and does not keep them waiting"
    heard = mini.heard("The young doctor found the map in the basket. The farmer")
    assert "The engineer" in heard and "old pilot" not in heard
    of_two = heard.split("carried the lamp.")[1].split("The engineer")[0].strip()
    assert "The captain painted the boat.".startswith(of_two), "little or nothing: the turn before it was still playing"
    assert "default" in found["voices"] and found["whole_s"] > 0.5

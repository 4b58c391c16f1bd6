"""The SDKs of Cartesia and Deepgram, and pipecat's and LiveKit's services for them, with nothing changed but their base URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import soundfile

from tests.dialects.sdk import Served

pytestmark = pytest.mark.torch

LAST = "The baker forgot the violin."


def check(turns: list[dict[str, Any]]) -> None:
    """Two turns that were heard, and one between them that was interrupted."""
    one, two, three = turns
    assert one["audio_s"] > 1 and three["audio_s"] > 1
    assert one["took_s"] > one["audio_s"] - 1.3, "it is paced: a lead of one second, and the burst"
    assert two["audio_s"] < two["took_s"] + 1.3 and two["audio_s"] < 4, "it was interrupted, and is never far ahead"


def check_memory(mini: Served, first: str) -> None:
    """What was not heard is not remembered."""
    heard = mini.heard(first)
    assert "The captain" in heard and "old pilot" not in heard


def spoken(turn: dict[str, Any]) -> str:
    """The words that a client was given times for."""
    return " ".join(word.strip() for word, _ in turn["words"])


def check_times(turn: dict[str, Any]) -> None:
    """Words are spoken one after the other, within the sound."""
    times = [at for _, at in turn["words"]]
    assert times == sorted(times) and times[-1] < turn["audio_s"]


def test_two_turns_and_a_barge_in_with_the_sdk_of_cartesia(mini: Served, tmp_path: Path) -> None:
    found = mini.client("cartesia_sdk", tmp_path)
    one, two, three = found["turns"]
    check(found["turns"])
    check_memory(mini, "The young sailor found the map. He sold it.")
    assert (spoken(one), spoken(three)) == ("The young sailor found the map. He sold it.", LAST)
    check_times(one)
    check_times(three)
    assert one["kinds"] == ["chunk", "done", "timestamps"] and one["last"] == three["last"] == "done"
    assert "pilot" not in spoken(two)
    assert one["strays"] == two["strays"] == []
    assert all((stray["of"], stray["behind"]) == ("two", 0) for stray in three["strays"]), "silent behind the cancel"
    kinds = [kind for kind, _ in found["events"]]
    assert kinds[-1] == "done" and set(kinds) == {"chunk", "timestamps", "done"}
    assert sum(size for _, size in found["events"]) > 24_000
    samples, rate = soundfile.read(tmp_path / "cartesia.wav")
    assert rate == 44_100 and len(samples) > rate
    assert found["refusals"] == [
        ["BadRequestError", "invalid_request"],
        ["AuthenticationError", "unauthorized"],
        ["error", 400],
    ]


def test_two_turns_and_a_barge_in_with_the_sdk_of_deepgram(mini: Served, tmp_path: Path) -> None:
    found = mini.client("deepgram_sdk", tmp_path)
    for turns, first in zip(found["turns"].values(), ("The young nurse", "The young pilot"), strict=True):
        check(turns)
        check_memory(mini, f"{first} found the map. He sold it.")
        assert turns[1]["answer_s"] < 0.5, "the interruption is answered at once"
    cleared = found["turns"]["one"][1]["told"]
    assert [told["type"] for told in cleared] == ["Cleared"]
    started, flushed, interrupted = found["turns"]["two"][1]["told"]
    assert (started["type"], flushed["type"]) == ("SpeechStarted", "Flushed")
    before_ms = found["turns"]["two"][0]["told"][-1]["audio_duration_ms"]
    assert abs(interrupted["audio_played_ms"] - before_ms - 1000) <= 1
    text = interrupted["text_spoken"] + interrupted["text_remaining"]
    assert text.startswith("The captain painted the boat. The sailor") and text.endswith("the old pilot. ")
    assert interrupted["text_spoken"].startswith("The captain") and "pilot" not in interrupted["text_spoken"]
    assert found["kinds"] == ["Metadata", "Connected", "SessionMetadata"]
    samples, rate = soundfile.read(tmp_path / "deepgram.wav")
    assert rate == 24_000 and len(samples) > rate
    assert found["refusals"] == [[400, "invalid_request"], [401, "unauthorized"]]


def test_two_turns_and_a_barge_in_with_pipecat(mini: Served, tmp_path: Path) -> None:
    found = mini.client("cartesia_deepgram_pipecat", tmp_path)
    interruptions = {"cartesia": {"cancel": True}, "deepgram": {"type": "Clear"}, "flux": {"type": "Interrupt"}}
    first = {"cartesia": "captain", "deepgram": "baker", "flux": "engineer"}
    for name, talk in found.items():
        assert not any(turn["errors"] for turn in talk["turns"])
        check(talk["turns"])
        check_memory(mini, f"The young {first[name]} found the map.")
        assert max(turn["longest_gap_s"] for turn in talk["turns"]) < 2.5, (
            "pipecat gives a turn up after 3 s of silence"
        )
        sought = interruptions[name].items()
        seen = [message for message in talk["sent"] if sought <= message.items()]
        assert len(seen) == 1, "the interruption is seen, because what is said is not sent at once"
    one, two, three = (" ".join(turn["words"]) for turn in found["cartesia"]["turns"])
    assert (one, three) == ("The young captain found the map.", LAST)
    assert two.startswith("The captain") and "pilot" not in two


def test_two_turns_and_a_barge_in_with_livekit(mini: Served, tmp_path: Path) -> None:
    found = mini.client("cartesia_deepgram_livekit", tmp_path)
    first = {"cartesia": "sailor", "deepgram": "nurse", "flux": "farmer"}
    for name, talk in found.items():
        check(talk["turns"])
        check_memory(mini, f"The old {first[name]} found the map.")
        assert talk["turns"][1]["close_s"] < 0.5 and talk["turns"][2]["first_s"] < 3, "the server lets go at once"
        assert talk["whole_s"] > 0.5
    one, two, three = map(spoken, found["cartesia"]["turns"])
    assert (one, three) == ("The old sailor found the map.", LAST)
    assert two.startswith("The captain") and "pilot" not in two

"""fish-audio-sdk speaks through Parley with nothing changed but its base URL."""

from __future__ import annotations

from pathlib import Path

import pytest
import soundfile

from tests.dialects.sdk import Served

pytestmark = pytest.mark.torch


def test_two_turns_and_a_barge_in_with_the_sdk_of_fish_audio(mini: Served, tmp_path: Path) -> None:
    found = mini.client("fish", tmp_path)
    one, two, three = found["turns"]
    assert one["audio_s"] > 1.5 and three["audio_s"] > 1
    assert one["took_s"] > one["audio_s"] - 1.3, "it is paced: a lead of one second, and the burst"
    assert two["took_s"] > 1.4 and two["audio_s"] < two["took_s"] + 1.3, "it was interrupted, and is never far ahead"
    assert two["close_s"] < 1, "the server lets go at once"
    assert three["first_s"] < 3
    assert one["smallest"] > 1024, "pipecat drops smaller messages"
    heard = mini.heard("The young doctor")
    assert heard.startswith("The young doctor found the map in the basket.")
    assert "The captain" in heard and "old pilot" not in heard, "what was not heard is not remembered"
    assert found["flushed_s"] > 1
    samples, rate = soundfile.read(tmp_path / "fish.wav")
    assert rate == 24_000 and len(samples) > rate
    assert found["refusals"][0][0] == "AuthenticationError" and found["refusals"][1][0] == "APIError"

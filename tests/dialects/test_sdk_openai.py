"""The openai package speaks through Parley with nothing changed but its base URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dialects.sdk import Served

pytestmark = pytest.mark.torch


def test_two_turns_and_a_barge_in_with_the_sdk_of_openai(mini: Served, tmp_path: Path) -> None:
    found = mini.client("openai_speech", tmp_path)
    one, two, three = found["turns"]
    assert one["audio_s"] > 1.5 and three["audio_s"] > 1
    assert one["took_s"] > one["audio_s"] - 1.3, "it is paced: a lead of one second, and the burst"
    assert two["took_s"] > 1.4 and two["audio_s"] < two["took_s"] + 1.3, "it was interrupted, and is never far ahead"
    assert two["close_s"] < 1, "the server lets go at once"
    assert one["request_id"] != two["request_id"]
    heard = mini.heard("The young doctor")
    assert heard.startswith("The young doctor found the map in the basket.")
    assert "The captain" in heard and "old pilot" not in heard, "what was not heard is not remembered"
    assert found["formats"] == {
        "wav": "audio/wav",
        "mp3": "audio/mpeg",
        "flac": "audio/flac",
        "aac": "audio/aac",
        "opus": "audio/ogg",
        "pcm": "audio/pcm",
    }
    assert found["kinds"] == ["speech.audio.delta", "speech.audio.done"]
    assert found["events_s"] == pytest.approx((tmp_path / "hello.pcm").stat().st_size / 48_000)
    assert found["usage"]["output_tokens"] > 10
    assert found["refusals"] == [
        ["BadRequestError", "empty_input", "input"],
        ["AuthenticationError", "unauthorized", None],
    ]
    assert found["models"] == ["mini"]

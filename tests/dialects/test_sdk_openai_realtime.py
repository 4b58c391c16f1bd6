"""openai's realtime client has given texts spoken by Parley, with only its base URL changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dialects.sdk import Served

pytestmark = pytest.mark.torch


def test_two_responses_and_a_barge_in(mini: Served, tmp_path: Path) -> None:
    found = mini.client("openai_realtime", tmp_path)
    one, two, three = found["turns"]
    assert found["session"] == ["session.created", "session.updated", "marin"]
    assert one["transcript"] == "The young farmer found the map. He sold it."
    assert three["transcript"] == "The baker forgot the violin."
    assert one["took_s"] > one["audio_s"] - 1.3, "it is paced: a lead of one second, and the burst"
    assert one["kinds"] == [
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_audio.delta",
        "response.output_audio_transcript.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.done",
    ]
    assert two["audio_s"] < two["took_s"] + 1.3 and two["kinds"][-1] == "conversation.item.truncated"
    assert two["transcript"].startswith("The captain") and "pilot" not in two["transcript"]
    heard = mini.heard("The young farmer found the map. He sold it.")
    assert "The captain" in heard and "old pilot" not in heard, "what was not heard is not remembered"
    assert found["nobody"] == "no_responder"
    assert "401" in found["refused"]

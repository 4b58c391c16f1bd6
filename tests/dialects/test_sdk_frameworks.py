"""Voice agents' frameworks speak through Parley's Fish Audio and OpenAI dialects, with nothing changed but the address."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dialects.sdk import Served

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("client", "arguments"),
    [
        ("fish_livekit", ()),
        ("openai_livekit", ("tts-1",)),  # mp3
        ("openai_livekit", ("gpt-4o-mini-tts",)),  # events
        ("fish_pipecat", ()),
        ("openai_pipecat", ()),
    ],
)
def test_two_turns_and_a_barge_in_with_a_framework(
    mini: Served, tmp_path: Path, client: str, arguments: tuple[str, ...]
) -> None:
    mini.engine.opened.clear()
    one, two, three = mini.client(client, tmp_path, *arguments)["turns"]
    assert one["audio_s"] > 1.2 and three["audio_s"] > 0.7
    assert two["audio_s"] < 4, "it was interrupted; all of it is six seconds"
    assert two.get("close_s", 0) < 1 and two.get("let_go_s", 0) < 0.4, "the client need not wait for the server"
    assert not one.get("errors") and not three.get("errors")
    heard = mini.heard("The young doctor")
    assert heard.startswith("The young doctor found the map.")
    assert "The captain" in heard and "old pilot" not in heard, "what was not heard is not remembered"

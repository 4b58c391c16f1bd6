"""stream-input: what elevenlabs-python's convert_realtime says, as it was seen on the wire."""

from __future__ import annotations

import base64
import json

from protocol.dialects.elevenlabs import SingleStream
from protocol.dialects.interface import CloseSocket, Opening
from protocol.events import Alignment, AlignmentItem, Status
from tests.dialects.desk import Desk
from tests.dialects.test_elevenlabs import UPDATE, append, cancel, end, flush, say, spoken

FIRST = say(
    text=" ", try_trigger_generation=True, voice_settings=None, generation_config={"chunk_length_schedule": [50]}
)


def desk(**query: str) -> Desk:
    return Desk(SingleStream, Opening(path={"voice": "anna"}, query=query))


def chunk(text: str) -> str:
    return say(text=text, try_trigger_generation=True)


def talking() -> Desk:
    one = desk()
    one.says(FIRST, chunk("Hello "), chunk("there. "))
    one.started("t1")
    one.sound("t1")
    return one


def test_a_text_in_pieces_from_first_to_last() -> None:
    one = desk(output_format="ulaw_8000")
    assert one.says(FIRST) == []
    assert one.says(chunk("Hello "), chunk(" there. ")) == [UPDATE, append("Hello "), append("there. ")]
    assert one.says(say(text="")) == [end()]
    one.started("t1")
    [message] = spoken(one.sound("t1", b"\1\2"))
    assert base64.b64decode(message["audio"]) == b"\1\2" and "contextId" not in message
    *_, last, close = one.ends("t1")
    assert json.loads(last) == {"audio": None, "isFinal": True}  # type: ignore[arg-type]
    assert close == CloseSocket(1000), "the client reads until then"
    assert one.leaves() == [], "what was sent may be played"


def test_nothing_to_say_is_over_at_once() -> None:
    outputs = desk().says(FIRST, say(text=""))
    assert spoken(outputs[:-1]) == [{"audio": None, "isFinal": True}] and outputs[-1] == CloseSocket(1000)


def test_a_flush_speaks_what_is_there() -> None:
    assert desk().says(FIRST, say(text="Hello", flush=True)) == [UPDATE, append("Hello"), flush()]
    assert desk(auto_mode="true").says(FIRST, say(text="Hello")) == [UPDATE, append("Hello"), flush()]


def test_characters_have_times() -> None:
    one = talking()
    one.hears(Alignment(turn="t1", items=(AlignmentItem("Hello", 0, 500, 0, 5),), final=False))
    [message] = spoken(one.sound("t1"))
    assert message["alignment"]["chars"] == [*"Hello"]
    assert message["alignment"]["charStartTimesMs"] == [0, 100, 200, 300, 400]
    assert message["alignment"]["charDurationsMs"] == [100] * 5


def test_a_client_that_stops_reading_has_interrupted() -> None:
    assert talking().leaves() == [cancel()]
    one = talking()
    one.says(say(text=""))
    assert one.leaves() == [cancel()]


def test_the_last_message_before_an_error_close_says_what_is_wrong() -> None:
    """elevenlabs-python makes its ApiError of a last message with `message` in it."""
    one = talking()
    error, close = one.ends("t1", Status.FAILED, reason="engine_restarted")
    assert spoken([error])[0]["error"] == "engine_restarted" and close == CloseSocket(1008, "failed")


def test_a_bad_message_ends_the_socket() -> None:
    one = talking()
    cancelled, error, close = one.says("{")
    assert cancelled == cancel(reason="failed") and spoken([error])[0]["message"].startswith("not JSON")
    assert close == CloseSocket(1008, "invalid_json")
    error, close = desk().says(say(text=" ", voice_settings={"speed": "fast"}))
    assert "voice_settings.speed" in spoken([error])[0]["message"] and close == CloseSocket(1008, "invalid_value")


def test_text_behind_the_end_is_let_pass() -> None:
    one = talking()
    assert one.says(say(text=""), chunk("More. ")) == [end()]

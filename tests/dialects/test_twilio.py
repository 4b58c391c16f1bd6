"""Twilio's messages, as they come and go on the wire: transcripts of the machine alone."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest

from protocol.dialects.interface import CloseSocket, Refused
from protocol.dialects.twilio import Digit, Done, HungUp, MediaStream, Progress, Sound, Started
from protocol.dialects.twilio_call import Wishes
from protocol.dialects.twilio_signature import is_signed, signature
from protocol.events import ContextUpdated, Status, TurnPaused, TurnResumed
from tests.dialects.desk import done as turn_done
from tests.dialects.phone import CALL, STREAM, dtmf, echo, media, start, stop

NOW = 100.0


class Line:
    """A call on a desk; what is done is told in short."""

    def __init__(self) -> None:
        self.stream = MediaStream()
        for message in start():
            self.stream.received(message, NOW)
        self._at: dict[str, int] = {}

    def speaks(self, turn: str, ms: int, *, last: bool = False, position: int | None = None) -> list[str]:
        """So much of a turn, in packets of 20 ms, each of which has its number as samples."""
        at = self._at.get(turn, 0) if position is None else position
        end = at + ms * 8
        told: list[str] = []
        while at < end:
            size = min(160, end - at)
            told += self.told(self.stream.audio(turn, at, bytes([at // 160 % 256]) * size, last and at + size == end))
            at += size
        self._at[turn] = at
        return told

    def hears(self, *messages: str) -> list[str]:
        return [line for message in messages for line in self.told(self.stream.received(message, NOW))]

    def told(self, outputs: Sequence[Done]) -> list[str]:
        return [_short(output) for output in outputs]

    def ends(self, turn: str, status: Status = Status.CANCELLED) -> list[str]:
        return [*self.told(self.stream.event(turn_done(turn, status))), *self.told(self.stream.settle())]


def _short(output: Done) -> str:
    match output:
        case str():
            return _short_message(json.loads(output))
        case Progress(turn, ms, most):
            return f"progress {turn} {ms} < {most}"
        case CloseSocket(code):
            return f"close {code}"
        case HungUp():
            return "hung up"
    return repr(output)


def _short_message(fields: dict[str, Any]) -> str:
    assert fields.pop("streamSid") == STREAM
    match fields:
        case {"event": "media", "media": {"payload": payload, **more}}:
            sound = base64.b64decode(payload)
            assert not more and len(sound) % 160 == 0
            return f"media {sound[0]}" + (f"+{sound.count(255)}" if sound[0] != 255 and 255 in sound else "")
        case {"event": "mark", "mark": {"name": name, **more}}:
            assert not more
            return f"mark {name}"
    assert fields.keys() == {"event"}
    return str(fields["event"])


def numbered(*numbers: int) -> list[str]:
    return [f"media {number}" for number in numbers]


def test_a_call_begins_with_what_the_twiml_gave_it() -> None:
    stream = MediaStream()
    connected, started = start({"session": "s-1"})
    assert stream.received(connected, NOW) == ()
    assert stream.received(started, NOW) == [Started(STREAM, CALL, {"session": "s-1"})]
    assert stream.received(started, NOW) == (), "once"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"mediaFormat": {"encoding": "audio/l16", "sampleRate": 8000}}, 1003),
        ({"mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 16000}}, 1003),
        ({"mediaFormat": None}, 1007),
        ({"streamSid": 5}, 1007),
    ],
)
def test_a_call_that_sounds_otherwise_is_not_taken(changes: dict[str, Any], code: int) -> None:
    _, started = start(**changes)
    assert [_short(done) for done in MediaStream().received(started, NOW)] == ["hung up", f"close {code}"]


@pytest.mark.parametrize("message", ["{", "[" * 100_000, media(b"")[:-2], '{"event":"media","media":{"payload":"*"}}'])
def test_what_cannot_be_read_ends_the_call(message: str) -> None:
    assert Line().hears(message) == ["hung up", "close 1007"]


@pytest.mark.parametrize(
    "message", ["[]", "5", '"x"', "{}", '{"event":"hello"}', '{"event":"mark"}', '{"event":"mark","mark":{"name":5}}']
)
def test_what_twilio_does_not_send_is_passed_over(message: str) -> None:
    assert Line().hears(message) == []


def test_speech_goes_out_in_units_with_a_mark_each_200_ms_and_at_its_end() -> None:
    line = Line()
    assert line.speaks("t", 200) == [*numbered(*range(10)), "mark t:200", "progress t None < 200"]
    assert line.speaks("t", 210, last=True) == [
        *numbered(*range(10, 20)),
        "mark t:400",
        "media 20+80",
        "mark t:410",
    ]


def test_marks_that_come_back_tell_what_was_heard_and_where_the_next_one_is() -> None:
    line = Line()
    line.speaks("t", 450, last=True)
    line.speaks("u", 200)
    assert line.hears(echo("t:200")) == ["progress t 200 < 400"]
    assert line.hears(echo("t:450")) == ["progress t 450 < None"], "one was lost on the way"
    assert line.hears(echo("t:400"), echo("nobody's")) == []
    assert line.hears(echo("u:200")) == ["progress u 200 < None"]


def test_an_interruption_clears_the_buffer_and_marks_that_come_back_then_say_nothing() -> None:
    line = Line()
    line.speaks("t", 600)
    line.hears(echo("t:200"))
    assert line.ends("t") == ["clear"]
    assert line.hears(echo("t:400"), echo("t:600")) == []
    assert line.speaks("u", 200)[-2:] == ["mark u:200", "progress u None < 200"]
    assert line.hears(echo("u:200")) == ["progress u 200 < None"]


def test_nothing_is_cleared_where_all_was_heard() -> None:
    line = Line()
    line.speaks("t", 200, last=True)
    line.hears(echo("t:200"))
    assert line.ends("t") == []


def test_what_is_behind_a_turn_that_is_interrupted_alone_is_sent_again() -> None:
    line = Line()
    line.speaks("t", 200, last=True)
    line.speaks("u", 240)
    assert line.ends("t") == [
        "clear",
        *numbered(*range(10)),
        "mark u:200",
        "progress u None < 200",
        *numbered(10, 11),
    ]
    assert line.hears(echo("t:200"), echo("u:200")) == [], "those were cleared"
    assert line.hears(echo("u:200")) == ["progress u 200 < None"]


def test_several_turns_that_end_together_are_cleared_once() -> None:
    line = Line()
    line.speaks("t", 200, last=True)
    line.speaks("u", 40)
    assert line.told(line.stream.event(turn_done("t", Status.CANCELLED))) == []
    assert line.ends("u") == ["clear"]


def test_a_turn_that_is_cut_after_its_end_is_cleared() -> None:
    line = Line()
    line.speaks("t", 200, last=True)
    assert line.ends("t", Status.COMPLETED) == []
    cut = ContextUpdated(turn="t", turns=1, audio_s=0.1, text_chars=5)
    assert [*line.told(line.stream.event(cut)), *line.told(line.stream.settle())] == ["clear"]


def test_a_turn_that_fails_is_heard_as_far_as_it_came() -> None:
    line = Line()
    line.speaks("t", 240)
    assert line.ends("t", Status.FAILED) == ["mark t:240"]


def test_a_pause_is_a_clear_and_what_was_not_heard_is_sent_again() -> None:
    line = Line()
    line.speaks("t", 400)
    line.hears(echo("t:200"))
    assert line.told(line.stream.event(TurnPaused(turn="t", at_ms=290))) == []
    assert line.told(line.stream.settle()) == ["clear"]
    assert line.speaks("t", 40) == [], "what was on its way"
    assert line.hears(echo("t:400")) == []
    assert line.told(line.stream.event(TurnResumed(turn="t", at_ms=290))) == numbered(*range(14, 22))
    assert line.speaks("t", 40) == [*numbered(22, 23), "mark t:480", "progress t None < 480"]


def test_a_turn_that_was_sent_whole_is_heard_whole_after_a_pause() -> None:
    line = Line()
    line.speaks("t", 100, last=True)
    line.ends("t", Status.COMPLETED)
    line.stream.event(TurnPaused(turn="t", at_ms=40))
    line.stream.settle()
    assert line.told(line.stream.event(TurnResumed(turn="t", at_ms=40))) == [
        *numbered(2, 3, 4),
        "mark t:100",
        "progress t None < 100",
    ]


def test_what_the_session_sends_again_is_sent_once() -> None:
    line = Line()
    line.speaks("t", 400)
    line.hears(echo("t:200"))
    line.stream.event(TurnPaused(turn="t", at_ms=300))
    line.stream.settle()
    again = line.told(line.stream.event(TurnResumed(turn="t", at_ms=240)))
    assert again == numbered(*range(12, 20))
    assert line.speaks("t", 200, position=240 * 8) == [*numbered(20, 21), "mark t:440", "progress t None < 440"]


def test_a_turn_that_goes_back_behind_what_is_kept_comes_from_the_session() -> None:
    line = Line()
    line.speaks("t", 400)
    line.hears(echo("t:200"))
    line.stream.event(TurnPaused(turn="t", at_ms=300))
    line.stream.settle()
    assert line.told(line.stream.event(TurnResumed(turn="t", at_ms=100))) == []
    assert line.speaks("t", 60, position=100 * 8) == numbered(5, 6, 7)


def test_a_paused_turn_that_is_cancelled_lets_those_behind_it_sound() -> None:
    line = Line()
    line.speaks("t", 100, last=True)
    line.speaks("u", 40)
    line.stream.event(TurnPaused(turn="t", at_ms=40))
    line.stream.settle()
    assert line.ends("t") == ["clear", *numbered(0, 1)]
    assert line.speaks("u", 20) == numbered(2)


def test_the_caller_is_heard_and_our_own_voice_is_not() -> None:
    line = Line()
    assert line.stream.received(media(b"\x12" * 160), NOW) == [Sound(b"\x12" * 160)]
    assert line.hears(media(b"\x12" * 160).replace('"inbound"', '"outbound"')) == []


def test_keys_are_told() -> None:
    assert Line().stream.received(dtmf("#"), NOW) == [Digit("#")]
    assert Line().hears(dtmf(""), dtmf("12"), dtmf("é")) == []


def test_half_of_a_character_in_a_parameter_does_no_harm() -> None:
    _, started = start({"text": "Good \ud83d"}, callSid="\udc00")
    (told,) = MediaStream().received(started, NOW)
    assert isinstance(told, Started)
    assert (told.call, told.parameters) == ("\ufffd", {"text": "Good \ufffd"})


def test_a_caller_who_hangs_up_is_answered_with_a_close() -> None:
    assert Line().hears(stop()) == ["hung up", "close 1000"]


def test_a_session_that_ends_lets_the_caller_hear_what_was_sent() -> None:
    line = Line()
    line.speaks("t", 300, last=True)
    assert line.told(line.stream.finish(CloseSocket(1000), NOW)) == []
    assert line.hears(echo("t:200")) == ["progress t 200 < 300"]
    assert line.hears(echo("t:300")) == ["progress t 300 < None", "close 1000"]


def test_a_session_that_ends_does_not_wait_for_marks_for_ever() -> None:
    line = Line()
    line.speaks("t", 300, last=True)
    line.stream.finish(CloseSocket(1000), NOW)
    assert NOW + 0.3 < line.stream.deadline <= NOW + 3.0
    assert line.told(line.stream.tick(line.stream.deadline)) == ["close 1000"]


def test_a_session_that_ends_in_silence_ends_the_call() -> None:
    line = Line()
    assert line.told(line.stream.finish(CloseSocket(1000), NOW)) == ["close 1000"]
    line.speaks("t", 300)
    line.ends("t")
    assert line.told(line.stream.finish(CloseSocket(1000), NOW)) == ["close 1000"], "what was cleared is not waited for"


def test_the_parameters_of_a_call_are_strings_with_defaults() -> None:
    wishes = Wishes.read({"caller": "+4930123456", "text": "  "})
    assert (wishes.session, wishes.token, wishes.text, wishes.digits_cancel) == (None, None, None, False)
    sound = wishes.sound
    assert (sound.format, sound.rate, sound.barge_in, sound.min_speech_ms) == ("mulaw", 8000, "cancel", 200)
    wishes = Wishes.read({"barge_in": "pause", "resume_after_ms": "900", "min_speech_ms": "300", "dtmf": "cancel"})
    assert (wishes.sound.barge_in, wishes.sound.resume_after_ms, wishes.sound.min_speech_ms) == ("pause", 900, 300)
    assert wishes.digits_cancel


@pytest.mark.parametrize(
    ("name", "value"),
    [("barge_in", "yes"), ("min_speech_ms", "-1"), ("resume_after_ms", "soon"), ("dtmf", "on"), ("text", "x" * 4097)],
)
def test_a_parameter_that_cannot_be_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(Refused) as refused:
        Wishes.read({name: value})
    assert (refused.value.param, refused.value.status) == (name, 400)


def test_a_signature_is_the_one_that_twilio_documents() -> None:
    form = {
        "CallSid": ["CA1234567890ABCDE"],
        "Caller": ["+14158675309"],
        "Digits": ["1234"],
        "From": ["+14158675309"],
        "To": ["+18005551212"],
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    assert signature("12345", url, form) == "RSOYDt4T1cUTdK1PDd93/VVr8B8="


@pytest.mark.parametrize("signed", ["wss://a.example/twilio", "wss://a.example:443/twilio", "wss://a.example/twilio/"])
@pytest.mark.parametrize("called", ["wss://a.example/twilio", "wss://a.example:443/twilio"])
def test_a_signature_holds_for_all_spellings_of_an_address(signed: str, called: str) -> None:
    assert is_signed("secret", called, signature("secret", signed))


@pytest.mark.parametrize(
    "given", ["", "x", "ü", signature("other", "wss://a.example/twilio"), signature("secret", "wss://b.example/twilio")]
)
def test_any_other_signature_is_wrong(given: str) -> None:
    assert not is_signed("secret", "wss://a.example/twilio", given)

"""Sound through a real socket."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from protocol.audio_frame import Flag, Kind, pack
from realtime.scripted import Script, ScriptedEngine
from tests.realtime.hearing_fixtures import in_quiet, messages
from tests.realtime.sockets import client, receive, send, serving

# 100 ms each: at 20 ms a burst of two seconds would meet the limit of messages a second.
SOUND = [b"".join(messages(in_quiet("wait"))[at : at + 5]) for at in range(0, 150, 5)]


def as_binary(index: int, payload: bytes) -> bytes:
    return pack(Kind.UPLINK, Flag.NONE, 0, 0, index * 1600, payload)


@pytest.mark.parametrize("binary", [True, False])
def test_somebody_who_speaks_ends_the_turn_through_the_socket(binary: bool) -> None:
    with serving(ScriptedEngine(Script(step_s=0.02))) as url, client(url) as ws:
        send(ws, "audio.input", barge_in="cancel")
        send(ws, "text.append", text="This is going to be a long answer, and nobody asked for it, but here it comes.")
        send(ws, "turn.end")
        receive(ws, "turn.started")
        for index, payload in enumerate(SOUND):
            if binary:
                ws.send(as_binary(index, payload))
            else:
                send(ws, "input_audio.append", audio=base64.b64encode(payload).decode())
        started = receive(ws, "speech.started")
        assert (started["turn"], started["action"]) == ("turn-1", "cancelled")
        done = receive(ws, "turn.done")
        assert (done["status"], done["reason"]) == ("cancelled", "barge_in")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (lambda: as_binary(0, SOUND[0]), "audio"),
        (lambda: pack(Kind.SPEECH, Flag.NONE, 0, 1, 0, b"\0\0"), "kind"),
    ],
)
def test_sound_that_is_refused_does_no_harm(message: Callable[[], bytes], param: str) -> None:
    with serving(ScriptedEngine(Script(step_s=0.001))) as url, client(url) as ws:
        ws.send(message())
        error = receive(ws, "error")
        assert (error["param"], error["fatal"]) == (param, False)
        send(ws, "ping", t=1)
        assert receive(ws, "pong")["t"] == 1

"""ElevenLabs' dialect on a real server whose engine speaks tones."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from realtime.scripted import ScriptedEngine
from realtime.settings import Settings
from tests.dialects.test_openai_server import recording
from tests.dialects.test_rooms import Noticed
from tests.realtime.sockets import PATIENCE_S, PLAINLY, serving

KEY = "a-key-for-the-tests"
SPEECH = "/v1/text-to-speech/default"
LONG = "one two three four five six seven eight nine ten " * 4  # some nine seconds of tones


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(ScriptedEngine(), Settings(port=0, keys=(SecretStr(KEY),))) as url:
        yield url


@contextmanager
def eleven(
    url: str, path: str, query: str = "output_format=pcm_24000", key: str | None = KEY
) -> Iterator[ClientConnection]:
    headers = {} if key is None else {"xi-api-key": key}
    with connect(f"{url.replace('http', 'ws', 1)}{path}?{query}", additional_headers=headers, **PLAINLY) as socket:
        yield socket


def say(socket: ClientConnection, **fields: object) -> None:
    socket.send(json.dumps(fields))


def hear(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(socket.recv(PATIENCE_S))
    return message


def rest(socket: ClientConnection) -> list[dict[str, Any]]:
    """All messages until one is final."""
    messages = [hear(socket)]
    while not messages[-1].get("isFinal"):
        messages.append(hear(socket))
    return messages


def sound(messages: list[dict[str, Any]]) -> bytes:
    return b"".join(base64.b64decode(message["audio"]) for message in messages if message.get("audio"))


def test_contexts_share_a_socket_and_are_spoken_in_their_order(server: str) -> None:
    with eleven(server, SPEECH + "/multi-stream-input") as socket:
        for name in ("a", "b"):
            say(socket, text=" ", context_id=name)
            say(socket, text="One two three.", context_id=name)
            say(socket, context_id=name, flush=True)
            say(socket, context_id=name, close_context=True)
        one, two = rest(socket), rest(socket)
    assert {message["contextId"] for message in one} == {"a"} and {message["contextId"] for message in two} == {"b"}
    assert len(sound(one)) > 24_000 and len(sound(one)) % 2 == 0
    for messages in (one, two):
        told = [message["alignment"] for message in messages if message.get("alignment")]
        assert "".join(char for each in told for char in each["chars"]) == "One two three. "
        spans = [each["charStartTimesMs"][-1] + each["charDurationsMs"][-1] for each in told]
        assert sum(spans) <= len(sound(messages)) / 48 + 1, "who adds them up stays within the sound"


def test_more_contexts_than_a_session_has_turns_are_spoken_one_after_the_other(server: str) -> None:
    with eleven(server, SPEECH + "/multi-stream-input") as socket:
        for n in range(20):
            say(socket, text="One.", context_id=str(n))
            say(socket, context_id=str(n), flush=True)
            say(socket, context_id=str(n), close_context=True)
        for n in range(20):
            messages = rest(socket)
            assert sound(messages) and {message["contextId"] for message in messages} == {str(n)}


def test_a_client_may_show_its_key_in_its_first_message(server: str) -> None:
    with eleven(server, SPEECH + "/stream-input", key=None) as socket:
        say(socket, text=" ", xi_api_key=KEY)
        say(socket, text="One two. ")
        say(socket, text="")
        assert sound(rest(socket))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(PATIENCE_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1000


@pytest.mark.parametrize("shown", [{}, {"xi_api_key": "wrong"}, {"authorization": "Bearer wrong"}])
def test_a_client_that_shows_none_or_a_wrong_one_is_closed(server: str, shown: dict[str, str]) -> None:
    with eleven(server, SPEECH + "/multi-stream-input", key=None) as socket:
        say(socket, text=" ", **shown)
        told = hear(socket)
        assert "key" in told["message"] and told["error"] == "unauthorized" and told["code"] == 1008
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(PATIENCE_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008


def test_what_cannot_be_done_is_refused_at_the_handshake(server: str) -> None:
    for key, query, status in (("wrong", "", 401), (KEY, "output_format=pcm_1", 422), (KEY, "seed=x", 422)):
        with pytest.raises(InvalidStatus) as refused, eleven(server, SPEECH + "/stream-input", query, key):
            pass
        assert refused.value.response.status_code == status
        assert json.loads(refused.value.response.body or b"")["detail"]["message"]


def test_over_http_sound_comes_as_it_is_or_with_times(server: str) -> None:
    headers = {"xi-api-key": KEY}
    with httpx.Client(base_url=server, headers=headers, trust_env=False, timeout=PATIENCE_S) as client:
        body = {"text": "One two three.", "model_id": "eleven_flash_v2_5", "seed": 7}
        for path in (SPEECH, SPEECH + "/stream"):
            plain = client.post(path + "?output_format=pcm_16000", json=body)
            assert plain.headers["content-type"] == "audio/pcm" and len(plain.content) > 16_000
        mp3 = client.post(SPEECH + "/stream", json=body)
        assert mp3.headers["content-type"] == "audio/mpeg"
        timed = client.post(SPEECH + "/stream/with-timestamps?output_format=pcm_16000", json=body)
    lines = [json.loads(line) for line in timed.text.splitlines()]
    assert b"".join(base64.b64decode(line["audio_base64"]) for line in lines) == plain.content
    told = [line["alignment"] for line in lines if line["alignment"]]
    assert "".join(char for each in told for char in each["characters"]) == "One two three. "
    ends = [end for each in told for end in each["character_end_times_seconds"]]
    assert ends == sorted(ends) and ends[-1] <= len(plain.content) / 32_000


def test_voices_are_listed_as_their_clients_read_them(server: str) -> None:
    headers = {"xi-api-key": KEY}
    with httpx.Client(base_url=server, headers=headers, trust_env=False) as client:
        for prefix in ("", "/s/talk"):
            [voice] = client.get(prefix + "/v1/voices").json()["voices"]
            assert voice["voice_id"] == voice["name"] == "default" and voice["category"]
        assert client.get("/v1/voices/default").json() == voice
        found = client.get("/v2/voices", params={"search": "DEF", "page_size": 5}).json()
        assert found["voices"] == [voice] and found["total_count"] == 1 and found["has_more"] is False
        assert client.get("/v2/voices", params={"search": "anna"}).json()["voices"] == []
        missing = client.get("/v1/voices/nobody")
        assert missing.status_code == 404 and missing.json()["detail"]["code"] == "voice_not_found"
        for path in ("/v1/voices", "/v1/voices/default", "/v2/voices"):
            refused = client.get(path, headers={"xi-api-key": "wrong"})
            assert refused.status_code == 401 and refused.json()["detail"]["type"] == "authentication_error"


def test_voices_come_and_go(tmp_path: Path) -> None:
    sample = {"files": ("a.wav", recording(), "audio/wav")}
    with (
        serving(ScriptedEngine(), Settings(port=0, voices_dir=tmp_path)) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S) as client,
    ):
        form = {"name": "Nicole (test)", "remove_background_noise": "false", "ref_text": "What is said in it."}
        ids = [client.post("/v1/voices/add", data=form, files=sample).json()["voice_id"] for _ in range(2)]
        assert ids == ["Nicole-test", "Nicole-test-2"], "nobody's voice is replaced"
        listed = client.get("/s/talk/v1/voices").json()["voices"]
        assert [voice["voice_id"] for voice in listed] == ["default", *ids]
        assert client.delete(f"/v1/voices/{ids[0]}").json() == {"status": "ok"}
        for name in (ids[0], "default"):
            gone = client.delete(f"/v1/voices/{name}")
            assert gone.status_code == 404 and gone.json()["detail"]["code"] == "voice_not_found"
        for without, param in (("name", "name"), ("ref_text", "ref_text"), (None, "files")):
            fields = {name: value for name, value in form.items() if name != without}
            refused = client.post("/v1/voices/add", data=fields, files=sample if without else {"x": ("a", b"")})
            assert refused.status_code == 422 and refused.json()["detail"]["param"] == param
        noise = client.post("/v1/voices/add", data=form, files={"files": ("a.wav", b"no sound at all")})
        assert noise.status_code == 400 and noise.json()["detail"]["param"] == "files"
        assert len(client.get("/v1/voices").json()["voices"]) == 2


def test_a_second_close_stops_a_turn_at_once_and_the_conversation_keeps_what_was_heard() -> None:
    engine = Noticed()
    with serving(engine) as url, eleven(url, "/s/talk" + SPEECH + "/multi-stream-input", "auto_mode=true") as socket:
        say(socket, text=LONG, context_id="a")
        say(socket, context_id="a", flush=True)
        say(socket, context_id="a", close_context=True)
        started = monotonic()
        while monotonic() - started < 1.5:
            assert not hear(socket).get("isFinal"), "it is paced"
        say(socket, context_id="a", close_context=True)
        rest(socket)
        assert engine.cancelled.wait(PATIENCE_S)
        say(socket, text="Then.", context_id="b")
        say(socket, context_id="b", flush=True)
        say(socket, context_id="b", close_context=True)
        assert {message["contextId"] for message in rest(socket)} == {"b"}
    heard = engine.histories()[-1].split()
    assert heard and "".join(LONG.split()).startswith("".join(heard)) and len(heard) < len(LONG.split()) / 2


def test_a_client_that_disappears_cancels_its_turn() -> None:
    engine = Noticed()
    with serving(engine) as url:
        with eleven(url, "/s/talk" + SPEECH + "/stream-input") as socket:
            say(socket, text=LONG)
            hear(socket)
        assert engine.cancelled.wait(PATIENCE_S)

"""Dialects on a real server whose engine speaks tones: sessions with a name, keys, and clients that disappear."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

import httpx
import ormsgpack
import pytest
from pydantic import SecretStr
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from engine.api import Conversation, SamplingParams, Voice
from protocol.config import Limits
from realtime.scripted import Script, ScriptedEngine, ScriptedStream
from realtime.settings import Settings
from tests.realtime.sockets import PATIENCE_S, serving, vanish

KEY, OTHER = "the-first-key", "the-second-key"
KEYS = (SecretStr(KEY), SecretStr(OTHER))
LIVE, SPEECH = "/v1/tts/live", "/v1/audio/speech"
LONG = "one two three four five six seven eight nine ten " * 4  # some nine seconds of tones


class Noticed(ScriptedEngine):
    """Tells a test in another thread when a stream was cancelled."""

    def __init__(self, script: Script | None = None) -> None:
        super().__init__(script)
        self.cancelled = threading.Event()

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> ScriptedStream:
        stream = super().open(conversation, voice, params, turn)
        cancel = stream.cancel

        def noticed() -> None:
            cancel()
            if not conversation.id.startswith("warm-up-"):
                self.cancelled.set()

        stream.cancel = noticed  # type: ignore[method-assign]
        return stream

    def histories(self) -> list[str]:
        """What was remembered when each turn was opened."""
        return ["".join(segment.text for segment in one.conversation.history) for one in self.opened[1:]]


@pytest.fixture(scope="module")
def open_server() -> Iterator[tuple[str, Noticed]]:
    engine = Noticed()
    with serving(engine) as url:
        yield url, engine


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(ScriptedEngine(), Settings(port=0, keys=KEYS)) as url:
        yield url


@contextmanager
def fish(url: str, path: str = LIVE, key: str | None = None, **headers: str) -> Iterator[ClientConnection]:
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    with connect(
        url.replace("http", "ws", 1) + path, compression=None, proxy=None, additional_headers=headers
    ) as socket:
        yield socket


def say(socket: ClientConnection, event: str, **fields: Any) -> None:
    socket.send(ormsgpack.packb({"event": event, **fields}))


def begin(socket: ClientConnection, text: str, **request: Any) -> None:
    say(socket, "start", request={"text": "", "format": "pcm", **request})
    say(socket, "text", text=text)


def hear(socket: ClientConnection) -> dict[str, Any]:
    message: dict[str, Any] = ormsgpack.unpackb(socket.recv(PATIENCE_S))
    return message


def speak(socket: ClientConnection, text: str, **request: Any) -> int:
    """Bytes of sound of a whole turn."""
    begin(socket, text, **request)
    say(socket, "stop")
    size = 0
    while (message := hear(socket))["event"] == "audio":
        size += len(message["audio"])
    assert message == {"event": "finish", "reason": "stop"}
    return size


def test_a_client_that_connects_again_goes_on_in_the_same_conversation() -> None:
    engine = Noticed()
    with serving(engine) as url:
        for text in ("One.", "Two."):
            with fish(url, "/s/talk" + LIVE) as socket:
                speak(socket, text)
        assert httpx.post(f"{url}/s/talk{SPEECH}", json={"input": "Three."}).status_code == 200
        with fish(url) as socket:
            speak(socket, "Four.")
    assert engine.histories() == ["", "One.", "One.Two.", ""], "a socket without a session's name begins anew"


def test_what_was_not_heard_is_not_remembered_after_an_interruption() -> None:
    engine = Noticed()
    with serving(engine) as url:
        with fish(url, "/s/talk" + LIVE) as socket:
            begin(socket, LONG)
            started = monotonic()
            while monotonic() - started < 1.5:
                assert hear(socket)["event"] == "audio"
        assert engine.cancelled.wait(PATIENCE_S)
        with fish(url, "/s/talk" + LIVE) as socket:
            speak(socket, "Then.")
    heard = engine.histories()[-1]
    assert heard and LONG.startswith(heard) and len(heard) < len(LONG) / 2


def test_on_a_socket_of_its_own_audio_comes_as_fast_as_it_is_made(open_server: tuple[str, Noticed]) -> None:
    with fish(open_server[0]) as socket:
        started = monotonic()
        size = speak(socket, LONG)
        assert size / 48_000 > 5 and monotonic() - started < size / 48_000 / 2


def test_below_a_session_audio_is_paced_and_the_end_comes_with_the_last_of_it(open_server: tuple[str, Noticed]) -> None:
    with fish(open_server[0], "/s/paced" + LIVE) as socket:
        begin(socket, "One two three four five six seven eight nine ten eleven twelve.")
        say(socket, "stop")
        size, first, last, message = 0, 0.0, 0.0, hear(socket)
        first = monotonic()
        while message["event"] == "audio":
            size, last = size + len(message["audio"]), monotonic()
            message = hear(socket)
        assert monotonic() - last < 0.5
        assert last - first > size / 48_000 - 1.2, "a lead of one second at most"


def test_a_client_that_hangs_up_in_the_middle_of_an_answer_is_noticed_at_once() -> None:
    engine = Noticed()
    with serving(engine) as url:
        with (
            httpx.Client(base_url=url) as client,
            client.stream("POST", f"/s/gone{SPEECH}", json={"input": LONG, "response_format": "pcm"}) as response,
        ):
            next(response.iter_raw())
        assert engine.cancelled.wait(PATIENCE_S)
        assert httpx.post(f"{url}/s/gone{SPEECH}", json={"input": "Then."}).status_code == 200
    heard = engine.histories()[-1]
    assert LONG.startswith(heard) and len(heard) < len(LONG) / 2


def test_two_requests_at_a_time_are_spoken_one_after_the_other() -> None:
    engine = Noticed()
    with serving(engine) as url:
        answers: list[int] = []

        def ask(text: str) -> None:
            answers.append(httpx.post(f"{url}/s/both{SPEECH}", json={"input": text}, timeout=PATIENCE_S).status_code)

        both = [threading.Thread(target=ask, args=(text,)) for text in ("One two.", "Three four.")]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
    assert answers == [200, 200]
    assert len(set(engine.opened[-1].conversation.id for _ in both)) == 1
    assert len(engine.histories()[-1]) >= len("One two.")


def test_connections_to_one_session_do_not_change_each_others_settings() -> None:
    engine = Noticed()
    with serving(engine) as url, fish(url, "/s/set" + LIVE) as one, fish(url, "/s/set" + LIVE) as two:
        speak(one, "One.", temperature=0.5)
        speak(two, "Two.", format="mp3")
        speak(one, "Three.", temperature=0.5, top_p=0.6)
    assert [(one.params.temperature, one.params.top_p) for one in engine.opened[1:]] == [
        (0.5, 0.9),
        (0.8, 0.9),
        (0.5, 0.6),
    ]


def test_a_session_belongs_to_the_key_that_made_it(server: str) -> None:
    with fish(server, "/s/mine" + LIVE, KEY) as socket:
        speak(socket, "One.")
        with pytest.raises(InvalidStatus) as refused, fish(server, "/s/mine" + LIVE, OTHER):
            pass
        assert refused.value.response.status_code == 403
        answer = httpx.post(
            f"{server}/s/mine{SPEECH}", json={"input": "Hi."}, headers={"Authorization": f"Bearer {OTHER}"}
        )
        assert answer.status_code == 403 and answer.json()["error"]["type"] == "permission_error"
        with fish(server, "/s/theirs" + LIVE, OTHER) as other:
            speak(other, "Two.")


SPELLINGS = [
    {"Authorization": f"Bearer {KEY}"},
    {"Authorization": f"bearer {KEY}"},
    {"Authorization": f"Token {KEY}"},
    {"Authorization": "Basic " + base64.b64encode(f"any:{KEY}".encode()).decode()},
    {"xi-api-key": KEY},
    {"X-API-Key": KEY},
    {"X-API-Key": KEY, "Authorization": f"Bearer {KEY}"},
]
WRONG = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": KEY},
    {"X-API-Key": "wrong"},
    {"xi-api-key": KEY + "x"},
    {"X-API-Key": KEY, "Authorization": "Bearer wrong"},
    {"X-API-Key": KEY, "Authorization": f"Bearer {OTHER}"},
]
ROUTES = [
    ("POST", "/v1/tts", {"text": "Hi.", "format": "wav"}),
    ("POST", SPEECH, {"input": "Hi."}),
    ("POST", SPEECH + "/batch", {"items": [{"input": "Hi."}]}),
    ("GET", "/v1/audio/voices", None),
    ("GET", "/v1/models", None),
]


@pytest.mark.parametrize("headers", SPELLINGS, ids=str)
def test_a_key_is_taken_in_every_spelling(server: str, headers: dict[str, str]) -> None:
    for method, path, body in ROUTES:
        for prefix in ("", "/s/spelled") if method == "GET" else ("",):
            answer = httpx.request(method, server + prefix + path, json=body, headers=headers, timeout=PATIENCE_S)
            assert answer.status_code == 200, (path, answer.text)
    for path in (LIVE, "/s/spelled" + LIVE, SPEECH + "/stream"):
        with fish(server, path, **headers):
            pass


@pytest.mark.parametrize("headers", WRONG, ids=str)
def test_no_key_or_a_wrong_one_is_refused_everywhere_in_the_shape_of_the_dialect(
    server: str, headers: dict[str, str]
) -> None:
    for method, path, body in ROUTES:
        for prefix in ("", "/s/spelled"):
            answer = httpx.request(method, server + prefix + path, json=body, headers=headers, timeout=PATIENCE_S)
            assert answer.status_code == 401, path
            if path == "/v1/tts":
                assert answer.json().keys() == {"message", "status"}
            else:
                assert answer.json()["error"]["code"] == "unauthorized"
    for path in (LIVE, "/s/spelled" + LIVE, SPEECH + "/stream"):
        with pytest.raises(InvalidStatus) as refused, fish(server, path, **headers):
            pass
        assert refused.value.response.status_code == 401
    assert httpx.delete(f"{server}/v1/audio/voices/anna", headers=headers).status_code == 401


def test_a_page_from_elsewhere_may_not_speak(open_server: tuple[str, Noticed]) -> None:
    url = open_server[0]
    elsewhere = {"Origin": "https://elsewhere.example"}
    assert httpx.post(url + SPEECH, json={"input": "Hi."}, headers=elsewhere).status_code == 403
    assert httpx.post(url + SPEECH + "/batch", json={"items": [{"input": "Hi."}]}, headers=elsewhere).status_code == 403
    assert httpx.delete(url + "/v1/audio/voices/anna", headers=elsewhere).status_code == 403
    with pytest.raises(InvalidStatus) as refused, fish(url, LIVE, **elsewhere):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize("name", ["a b", "ä", "x" * 65, "a:b"])
def test_a_session_cannot_have_any_name(open_server: tuple[str, Noticed], name: str) -> None:
    answer = httpx.post(f"{open_server[0]}/s/{name}/v1/tts", json={"text": "Hi."})
    assert (answer.status_code, answer.json()["status"]) == (400, 400)


def test_a_full_server_refuses_in_the_words_of_http() -> None:
    with serving(ScriptedEngine(), Settings(port=0, max_sessions=1)) as url, fish(url):
        answer = httpx.post(url + SPEECH, json={"input": "Hi."})
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["type"] == "rate_limit_error"
        with pytest.raises(InvalidStatus) as refused, fish(url):
            pass
        assert refused.value.response.status_code == 429


def test_a_session_that_nobody_uses_makes_room() -> None:
    with serving(ScriptedEngine(), Settings(port=0, max_sessions=1)) as url:
        for name in ("one", "two"):
            with fish(url, f"/s/{name}{LIVE}") as socket:
                assert speak(socket, "Hi.", speed=4)


def test_a_message_may_be_as_large_as_the_dialect_says(open_server: tuple[str, Noticed]) -> None:
    with fish(open_server[0]) as socket:
        say(socket, "start", request={"format": "pcm", "references": [{"audio": b"x" * 2**20, "text": "no sound"}]})
        assert hear(socket)["reason"] == "error"
    with fish(open_server[0], SPEECH + "/stream") as socket:
        with pytest.raises(ConnectionClosed) as closed:
            socket.send(json.dumps({"type": "input.text", "text": "x" * 33 * 2**20}))
            socket.recv(PATIENCE_S)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


def test_a_body_that_is_too_large_is_not_read_to_its_end(open_server: tuple[str, Noticed]) -> None:
    answer = httpx.post(open_server[0] + SPEECH, content=b" " * (33 * 2**20))
    assert answer.status_code == 413


def test_the_engine_s_failure_before_any_sound_is_a_status() -> None:
    with serving(ScriptedEngine(Script(max_streams=1)), Settings(port=0, admission_timeout_s=0)) as url:
        with fish(url) as socket:
            begin(socket, "One two three.")  # the turn stays open: no stop comes
            hear(socket)
            answer = httpx.post(url + SPEECH, json={"input": "Hi."})
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "no_capacity"


def test_a_client_that_reads_nothing_is_dropped_and_its_speech_cancelled() -> None:
    engine = Noticed()
    with serving(engine, Settings(port=0, limits=Limits(drain_s=1))) as url:
        with fish(url) as deaf:
            begin(deaf, LONG * 8)  # more than all buffers on the way hold
            assert engine.cancelled.wait(PATIENCE_S)
            vanish(deaf)
        with fish(url) as socket:
            speak(socket, "Hi.")


def test_a_page_shows_its_key_beside_the_names_of_subprotocols(server: str) -> None:
    base = server.replace("http", "ws", 1)
    realtime = ["realtime", f"openai-insecure-api-key.{KEY}", "openai-beta.realtime-v1"]
    for path, offered, agreed in (
        ("/v1/speak", ["token", KEY], "token"),
        ("/s/page/v2/speak", ["bearer", KEY], "bearer"),
        ("/v1/realtime", realtime, "realtime"),
    ):
        with connect(base + path, subprotocols=offered, compression=None, proxy=None) as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == agreed, "a page hangs up where nothing is agreed to"
        wrong = [name.replace(KEY, "wrong") for name in offered]
        with pytest.raises(InvalidStatus) as refused:
            connect(base + path, subprotocols=wrong, compression=None, proxy=None).__enter__()  # type: ignore[arg-type]
        assert refused.value.response.status_code == 401


def test_why_a_handshake_is_refused_is_where_a_client_of_deepgram_looks(server: str) -> None:
    headers = {"Authorization": f"Token {KEY}"}
    address = server.replace("http", "ws", 1) + "/v1/speak?encoding=mp3"
    with pytest.raises(InvalidStatus) as refused:
        connect(address, additional_headers=headers, compression=None, proxy=None).__enter__()
    assert refused.value.response.status_code == 400
    assert "linear16" in refused.value.response.headers["dg-error"]

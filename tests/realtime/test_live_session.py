"""What becomes of a session that loses its socket, over real sockets on loopback."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from engine.api import Conversation, SamplingParams, Voice
from protocol.audio_frame import Flag, unpack
from protocol.client import connect as client_of
from protocol.config import Limits
from realtime.scripted import Script, ScriptedEngine, ScriptedStream
from realtime.settings import Settings
from tests.realtime.sockets import (
    KEY,
    PATIENCE_S,
    PLAIN,
    PLAINLY,
    RIGHT,
    Watched,
    live,
    receive,
    say,
    send,
    serving,
    to_the_end,
    tones,
    vanish,
)

OTHER_KEY = "another-key-for-the-tests"
LISTENED: dict[str, Any] = {"audio": PLAIN["audio"], "pacing": {"clock": "realtime", "lead_ms": 500, "burst_ms": 200}}
OURS = logging.getLogger("tests.the-clients-own")
RAW_TEXT = "It goes on for a while."


class Listener:
    """What arrived over all sockets of one session."""

    def __init__(self) -> None:
        self.audio = b""
        self.n = 0
        self.position = 0  # behind the last sample that arrived
        self.flags: list[Flag] = []
        self.events: list[dict[str, Any]] = []

    @property
    def have(self) -> str:
        return f"{self.n}:{self.position}"

    def hear(self, ws: ClientConnection, *, until: str | None = None, messages: int | None = None) -> dict[str, Any]:
        """Read up to an event of this type, or so many messages of audio."""
        heard = 0
        while True:
            message = ws.recv(PATIENCE_S)
            if isinstance(message, str):
                event: dict[str, Any] = json.loads(message)
                self.events.append(event)
                if event["type"] == until:
                    return event
                continue
            frame = unpack(message)
            assert (frame.n, frame.position) == (self.n, self.position) or frame.n > self.n, "nothing twice, no gap"
            self.audio += frame.payload
            self.n, self.position = frame.n, frame.position + len(frame.payload) // 4
            self.flags.append(frame.flags)
            heard += 1
            if heard == messages:
                return {}

    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]


def opened(url: str, **options: Any) -> tuple[ClientConnection, dict[str, Any]]:
    """A socket and its session.created."""
    ws = connect(live(url), **PLAINLY, **options).__enter__()
    created: dict[str, Any] = json.loads(ws.recv(PATIENCE_S))
    assert created["type"] == "session.created"
    return ws, created


def resumed(
    url: str, created: dict[str, Any], have: str | None = None, **options: Any
) -> tuple[ClientConnection, dict[str, Any]]:
    """Another socket for that session."""
    query = f"?resume={created['resume_token']}" + (f"&have={have}" if have is not None else "")
    ws = connect(live(url) + query, **PLAINLY, **options).__enter__()
    again: dict[str, Any] = json.loads(ws.recv(PATIENCE_S))
    assert again["type"] == "session.created", again
    assert again["resumed"] and again["session"] == created["session"]
    return ws, again


@contextmanager
def patient(**limits: int) -> Iterator[tuple[str, ScriptedEngine]]:
    engine = ScriptedEngine(Script(step_s=0.001))
    with serving(engine, Settings(port=0, limits=Limits(**limits))) as url:
        yield url, engine


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ScriptedEngine(Script(step_s=0.001, max_streams=64))) as address:
        yield address


def refused_with(url: str, token: str, **options: Any) -> tuple[int, str]:
    """Status and code of an attempt to resume."""
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"{live(url)}?resume={token}", proxy=None, **options)
    body = refusal.value.response.body
    assert body is not None
    return refusal.value.response.status_code, json.loads(body)["error"]["code"]


# Resuming


def test_a_turn_goes_on_over_another_socket_without_a_gap_or_a_repetition(url: str) -> None:
    listener = Listener()
    ws, created = opened(url)
    assert created["resumed"] is False and created["turns"] == []
    send(ws, "session.update", **LISTENED)
    send(ws, "text.append", text=RAW_TEXT)
    listener.hear(ws, messages=5)
    vanish(ws)
    ws, again = resumed(url, created, listener.have)
    with ws:
        assert [(turn["turn"], turn["text_chars"], turn["text_ended"]) for turn in again["turns"]] == [
            ("turn-1", len(RAW_TEXT), False)
        ]
        assert again["config"]["audio"]["output"]["format"] == "pcm_f32le"
        assert again["expires_at"] == pytest.approx(created["expires_at"], abs=2000)
        send(ws, "turn.end")
        done = listener.hear(ws, until="turn.done")
    assert done["status"] == "completed" and done["heard"]["text"] == RAW_TEXT
    assert np.array_equal(np.frombuffer(listener.audio, "<f4"), tones(RAW_TEXT))
    assert listener.flags[0] == Flag.FIRST and listener.flags[-1] == Flag.LAST and not any(listener.flags[1:-1])


def test_every_socket_may_be_lost_in_turn(url: str) -> None:
    listener = Listener()
    ws, created = opened(url)
    send(ws, "session.update", **LISTENED)
    send(ws, "text.append", text=RAW_TEXT)
    send(ws, "turn.end")
    for _ in range(8):
        listener.hear(ws, messages=2)
        vanish(ws)
        ws, _ = resumed(url, created, listener.have)
    with ws:
        assert listener.hear(ws, until="turn.done")["status"] == "completed"
    assert np.array_equal(np.frombuffer(listener.audio, "<f4"), tones(RAW_TEXT))


@pytest.mark.parametrize("read", range(1, 23))
def test_a_socket_may_be_lost_at_any_message(url: str, read: int) -> None:
    """As fast as it comes: the server has written far more than the client has read."""
    listener = Listener()
    ws, created = opened(url)
    send(ws, "session.update", **PLAIN)
    send(ws, "text.append", text="One two.")
    send(ws, "turn.end")
    for _ in range(read):
        message = ws.recv(PATIENCE_S)
        if isinstance(message, bytes):
            frame = unpack(message)
            listener.n, listener.position = frame.n, frame.position + len(frame.payload) // 4
            listener.audio += frame.payload
            listener.flags.append(frame.flags)
        else:
            listener.events.append(json.loads(message))
    vanish(ws)
    ws, _ = resumed(url, created, listener.have)
    with ws:
        if "turn.done" in listener.kinds():
            assert json.loads(ws.recv(PATIENCE_S)) == listener.events[-1]
        else:
            listener.hear(ws, until="turn.done")
    ends = [event for event in listener.events if event["type"] == "turn.done"]
    assert len(ends) == 1 and ends[0]["status"] == "completed" and ends[0]["heard"]["text"] == "One two."
    assert np.array_equal(np.frombuffer(listener.audio, "<f4"), tones("One two."))


def test_what_was_sent_and_never_read_comes_again_with_its_events(url: str) -> None:
    ws, created = opened(url)
    send(ws, "session.update", **PLAIN)
    send(ws, "text.append", text="Hello there.")
    send(ws, "turn.end")
    receive(ws, "turn.done")
    vanish(ws)
    listener = Listener()
    ws, again = resumed(url, created)
    with ws:
        assert again["turns"] == []
        listener.hear(ws, until="turn.done")
        assert np.array_equal(np.frombuffer(listener.audio, "<f4"), tones("Hello there."))
        assert listener.kinds() == ["session.updated", "turn.started", "turn.done"]
        vanish(ws)
    ws, again = resumed(url, created, listener.have)
    with ws:
        done = json.loads(ws.recv(PATIENCE_S))
        assert done == listener.events[-1], "the same end once more: nobody can know whether it arrived"
        send(ws, "ping", t=1)
        assert json.loads(ws.recv(PATIENCE_S))["type"] == "pong", "and nothing else"


def test_a_gap_is_said_where_the_buffer_does_not_reach_back() -> None:
    with patient(replay_s=1) as (url, _):
        ws, created = opened(url)
        send(ws, "session.update", **LISTENED)
        send(ws, "text.append", text=RAW_TEXT * 3)
        send(ws, "turn.end")
        receive(ws, "turn.done")
        vanish(ws)
        ws, _ = resumed(url, created, "1:0")
        first = next(message for message in iter(lambda: ws.recv(PATIENCE_S), None) if isinstance(message, bytes))
        vanish(ws)
        assert Flag.DISCONTINUITY in unpack(first).flags and unpack(first).position > 0


def test_the_conversation_is_remembered() -> None:
    engine = ScriptedEngine(Script(step_s=0.001))
    with serving(engine) as url:
        ws, created = opened(url)
        send(ws, "session.update", **PLAIN)
        say(ws, "One.")
        vanish(ws)
        ws, _ = resumed(url, created, "1:999999")
        with ws:
            assert receive(ws, "turn.done")["n"] == 1, "once more"
            _, done = say(ws, "Two.")
            assert done["n"] == 2 and done["status"] == "completed"
    history = engine.opened[-1].conversation.history
    assert [segment.text for segment in history] == ["One."]
    assert engine.opened[-1].conversation.id == created["session"] == engine.opened[-2].conversation.id


# The end of waiting


def test_who_stays_away_too_long_loses_the_turn_and_keeps_the_conversation() -> None:
    with patient(disconnect_grace_ms=100) as (url, engine):
        listener = Listener()
        ws, created = opened(url)
        send(ws, "session.update", **LISTENED)
        send(ws, "text.append", text=RAW_TEXT * 4)
        send(ws, "turn.end")
        listener.hear(ws, messages=5)
        vanish(ws)
        other, _ = opened(url)  # to wait for the turn's end without sleeping
        with other:
            send(other, "session.update", **LISTENED)
            say(other, "This takes half a second.")
        ws, again = resumed(url, created, listener.have)
        with ws:
            assert again["turns"] == []
            done = listener.hear(ws, until="turn.done")
            assert (done["status"], done["reason"], done["heard"]["source"]) == ("cancelled", "disconnected", "clock")
            assert done["heard"]["text"] + done["heard"]["remaining"] == RAW_TEXT * 4
            assert 0 < done["heard"]["ms"] <= done["sent_ms"] < done["audio_ms"]
            assert len(listener.flags) == 5, "what was cut is not played again"
            send(ws, "session.update", **PLAIN)
            assert say(ws, "Again.")[1]["n"] == 2
    history = [opened.conversation.history for opened in engine.opened if opened.turn == 2]
    assert sum(segment.codes.shape[1] for segment in history[0]) * 46.4 <= done["heard"]["ms"] + 1


def test_a_session_that_nobody_resumes_ends() -> None:
    engine = Watched(Script(step_s=0.001))
    with serving(engine, Settings(port=0, limits=Limits(resume_ttl_s=1))) as url:
        ws, created = opened(url)
        vanish(ws)
        assert engine.gone.wait(PATIENCE_S)
        assert refused_with(url, created["resume_token"]) == (404, "unknown_session")


def test_a_server_that_keeps_no_sessions_says_so() -> None:
    engine = Watched(Script(step_s=0.001))
    with serving(engine, Settings(port=0, limits=Limits(resume_ttl_s=0))) as url:
        ws, created = opened(url)
        assert "resume_token" not in created
        vanish(ws)
        assert engine.gone.wait(PATIENCE_S)


@pytest.mark.parametrize("code", [1000, None])
def test_a_client_that_says_farewell_is_not_waited_for(code: int | None) -> None:
    engine = Watched(Script(step_s=0.001))
    with serving(engine) as url:
        ws, created = opened(url)
        send(ws, "text.append", text=RAW_TEXT)
        receive(ws, "turn.started")
        if code is None:
            ws.protocol.send_close()
            ws.socket.sendall(b"".join(ws.protocol.data_to_send()))
        else:
            ws.close(code)
        assert engine.gone.wait(PATIENCE_S) and not engine.streams
        assert refused_with(url, created["resume_token"])[0] == 404


@pytest.mark.parametrize("code", [1001, 1011, 3000])
def test_a_client_that_closes_for_another_reason_may_return(url: str, code: int) -> None:
    ws, created = opened(url)
    ws.close(code)
    ws, again = resumed(url, created)
    ws.close()
    assert again["resumed"] and again["session"] == created["session"]


def test_a_session_that_was_closed_cannot_be_resumed(url: str) -> None:
    ws, created = opened(url)
    with ws:
        send(ws, "session.close")
        assert to_the_end(ws) == ([], 1000)
    assert refused_with(url, created["resume_token"]) == (404, "unknown_session")


# Another socket


def test_a_second_socket_takes_over_and_the_first_is_told(url: str) -> None:
    listener = Listener()
    first, created = opened(url)
    send(first, "session.update", **LISTENED)
    send(first, "text.append", text=RAW_TEXT)
    send(first, "turn.end")
    listener.hear(first, messages=3)
    second, _ = resumed(url, created, listener.have)
    said, code = to_the_end(first)
    assert (said[-1]["type"], said[-1]["code"], said[-1]["fatal"], code) == ("error", "taken_over", True, 4409)
    with second:
        done = listener.hear(second, until="turn.done")
    assert done["status"] == "completed"
    assert np.array_equal(np.frombuffer(listener.audio, "<f4"), tones(RAW_TEXT))


def test_a_socket_that_lost_its_session_changes_nothing_any_more(url: str) -> None:
    first, created = opened(url)
    second, _ = resumed(url, created)
    to_the_end(first)
    with second:
        send(second, "session.update", **PLAIN)
        assert say(second, "Still here.")[1]["status"] == "completed"


# Whose it is


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    settings = Settings(port=0, keys=(KEY, OTHER_KEY), limits=Limits(unauthenticated_s=1))  # type: ignore[arg-type]
    with serving(ScriptedEngine(), settings) as address:
        yield address


def test_a_session_is_resumed_with_the_key_that_made_it_alone(guarded: str) -> None:
    ws, created = opened(guarded, additional_headers=RIGHT)
    vanish(ws)
    other = {"Authorization": f"Bearer {OTHER_KEY}"}
    assert refused_with(guarded, created["resume_token"], additional_headers=other) == (403, "forbidden")
    assert refused_with(guarded, "prt_guess", additional_headers=RIGHT) == (404, "unknown_session")
    with connect(f"{live(guarded)}?resume={created['resume_token']}", proxy=None) as ws:
        send(ws, "session.update", token=OTHER_KEY)
        said, code = to_the_end(ws)
        assert said[0]["code"] == "forbidden" and code == 4403
    with connect(f"{live(guarded)}?resume={created['resume_token']}", proxy=None) as ws:
        assert to_the_end(ws)[1] == 4401, "the token alone is not enough"
    resumed(guarded, created, additional_headers=RIGHT)[0].close()


def test_a_page_resumes_with_its_key_in_the_first_message(guarded: str) -> None:
    ws, created = opened(guarded, additional_headers=RIGHT)
    vanish(ws)
    with connect(f"{live(guarded)}?resume={created['resume_token']}", proxy=None) as ws:
        send(ws, "session.update", token=KEY)
        assert json.loads(ws.recv(PATIENCE_S))["resumed"] is True


def test_an_address_that_is_misspelt_opens_nothing(url: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"{live(url)}?resum=x", proxy=None)
    assert refusal.value.response.status_code == 400


# Secrets for browsers


def minted(url: str) -> dict[str, Any]:
    answer = httpx.post(f"{url}/v1/sessions", headers=RIGHT, trust_env=False)
    assert answer.status_code == 201
    made: dict[str, Any] = answer.json()
    return made


def test_a_client_secret_opens_its_session_once_and_the_resume_token_opens_it_again(guarded: str) -> None:
    made = minted(guarded)
    address = f"{made['ws_url']}?token={made['client_secret']}"
    with connect(address, proxy=None) as ws:
        created = json.loads(ws.recv(PATIENCE_S))
        assert created["session"] == made["session"]
        with pytest.raises(InvalidStatus) as refusal:
            connect(address, proxy=None)
        assert refusal.value.response.status_code == 401
        vanish(ws)
    ws, _ = resumed(guarded, created)
    with ws:
        send(ws, "session.update", **PLAIN)
        assert say(ws, "Back again.")[1]["status"] == "completed"


def test_the_python_client_comes_back_to_the_session_of_a_secret_that_is_spent(guarded: str) -> None:
    made = minted(guarded)

    async def run() -> None:
        async with client_of(f"{made['ws_url']}?token={made['client_secret']}") as client:
            assert client._socket is not None
            client._socket.transport.abort()
            await client.ping()
            assert (client.session.session, client.session.resumed) == (made["session"], True)

    anyio.run(run)


def test_a_client_secret_may_come_in_the_first_message(guarded: str) -> None:
    made = minted(guarded)
    with connect(made["ws_url"], proxy=None) as ws:
        send(ws, "session.update", token=made["client_secret"])
        assert json.loads(ws.recv(PATIENCE_S))["session"] == made["session"]


def test_a_session_of_one_page_is_not_resumed_by_a_secret_of_another(guarded: str) -> None:
    ws, created = opened(guarded, additional_headers=RIGHT)
    vanish(ws)
    secret = minted(guarded)["client_secret"]
    with pytest.raises(InvalidStatus) as refusal:
        connect(f"{live(guarded)}?resume={created['resume_token']}&token={secret}", proxy=None)
    assert refusal.value.response.status_code == 400


def test_a_browser_that_comes_too_late_is_told_after_the_handshake(url: str) -> None:
    origin: Any = url
    with connect(f"{live(url)}?resume=prt_nobody", proxy=None, origin=origin) as ws:
        said, code = to_the_end(ws)
    assert ([event["code"] for event in said], code) == (["unknown_session"], 4404)


# Crowds, floods, mistakes


def test_who_waits_for_a_client_gives_way_to_who_is_there() -> None:
    with serving(ScriptedEngine(), Settings(port=0, max_sessions=1)) as url:
        ws, created = opened(url)
        vanish(ws)
        ws, _ = resumed(url, created)  # only when it was attached again do we know that it was detached
        vanish(ws)
        with pytest.raises(InvalidStatus) as refusal:
            while True:
                other, _ = opened(url)
                other.close()
                connect(f"{live(url)}?resume={created['resume_token']}", proxy=None).close()
        assert refusal.value.response.status_code == 404


def test_a_client_that_did_not_read_is_told_when_it_returns() -> None:
    with patient(drain_s=1) as (url, _), logged("session waits for its client") as waits:
        ws, created = opened(url, max_queue=1)  # it reads on only when somebody asks it for messages
        send(ws, "session.update", audio={"output": {"format": "pcm_f32le", "rate": 48000}}, pacing={"clock": "none"})
        send(ws, "text.append", text="A long story, told to nobody. " * 100)
        send(ws, "turn.end")
        assert waits.wait(PATIENCE_S)
        with pytest.raises(ConnectionClosed):
            while True:
                ws.recv(PATIENCE_S)
        again, _ = resumed(url, created, "9:0")
        warning = receive(again, "warning")
        assert warning["code"] == "slow_consumer" and "drain_s=1" in warning["message"]
        vanish(again)


@contextmanager
def logged(message: str) -> Iterator[threading.Event]:
    """An event that is set when the server logs this."""
    seen = threading.Event()

    class Watcher(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == message:
                seen.set()

    watcher, logger = Watcher(), logging.getLogger("parley.live")
    level = logger.level
    logger.addHandler(watcher)
    logger.setLevel(logging.INFO)
    try:
        yield seen
    finally:
        logger.removeHandler(watcher)
        logger.setLevel(level)


def test_no_secret_is_ever_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings(port=0, keys=(KEY,))  # type: ignore[arg-type]
    with serving(ScriptedEngine(), settings) as url:
        made = minted(url)
        ws = connect(
            f"{made['ws_url']}?token={made['client_secret']}", proxy=None, ping_interval=None, logger=OURS
        ).__enter__()
        created = json.loads(ws.recv(PATIENCE_S))
        vanish(ws)
        resumed(url, created, logger=OURS)[0].close()
        refused_with(url, "prt_guess", additional_headers=RIGHT, logger=OURS)
    records = [record for record in caplog.records if record.name != OURS.name]
    assert "session resumed" in [record.getMessage() for record in records]
    for secret in (made["client_secret"], created["resume_token"], KEY):
        assert not [record for record in records if secret in record.getMessage()]
    assert not [record for record in records if record.levelno >= logging.WARNING], "a refusal is nobody's mistake"


def test_a_bug_in_a_stream_ends_its_own_session_alone() -> None:
    class Broken(Watched):
        def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> ScriptedStream:
            stream = super().open(conversation, voice, params, turn)
            if params.seed == 13:
                stream.step = lambda: 1 // 0  # type: ignore[assignment, return-value]
            return stream

    engine = Broken(Script(step_s=0.001))
    with serving(engine) as url:
        other, _ = opened(url)
        ws, created = opened(url)
        send(ws, "session.update", sampling={"seed": 13})
        send(ws, "text.append", text="Hello there.")
        send(ws, "turn.end")
        said, code = to_the_end(ws)
        assert (said[-1]["code"], said[-1]["message"], code) == ("internal", "the server made a mistake", 1011)
        assert refused_with(url, created["resume_token"])[0] == 404
        with other:
            send(other, "session.update", **PLAIN)
            assert say(other, "Hello.")[1]["status"] == "completed"

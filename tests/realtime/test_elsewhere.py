"""Clients that reach a process of the server which does not have their session: they notice nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from protocol.config import Limits
from realtime.settings import Settings
from realtime.shared import token_name
from realtime.tls import certificate
from tests.realtime.several import Member, name_in, several
from tests.realtime.sockets import (
    KEY,
    PATIENCE_S,
    PLAIN,
    PLAINLY,
    RIGHT,
    WRONG,
    answer_to_a_message_too_large,
    handshake,
    live,
    masked,
    raw,
    receive,
    say,
    send,
    to_the_end,
    tones,
    vanish,
)

SPEECH = "/v1/audio/speech"
ELSEWHERE = name_in(1)  # for who comes to the first of them
LONG = "one two three four five six seven eight nine ten " * 40
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Member, Member]]:
    with several(tmp_path_factory.mktemp("pair")) as members:
        yield members


@contextmanager
def resumed(member: Member, token: str, **options: Any) -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    """A socket at that process, and what it was told first."""
    with connect(f"{live(member.url)}?resume={token}", **PLAINLY, **options) as ws:
        created = json.loads(ws.recv(PATIENCE_S))
        assert created["type"] == "session.created" and created["resumed"]
        yield ws, created


def begun(ws: ClientConnection) -> dict[str, Any]:
    """session.created of a new session, which speaks as fast as it can from then on."""
    created = receive(ws, "session.created")
    send(ws, "session.update", **PLAIN)
    return created


def left(member: Member) -> str:
    """The token of a session there whose client has vanished."""
    with connect(live(member.url), **PLAINLY) as ws:
        token: str = begun(ws)["resume_token"]
        vanish(ws)
    return token


def segments(member: Member) -> list[str]:
    """What each stream of this process was told of what was said before."""
    return ["".join(each.text for each in one.conversation.history) for one in member.engine.opened[1:]]


# WebSockets


def test_a_session_is_resumed_at_a_process_that_does_not_have_it(pair: tuple[Member, Member]) -> None:
    here, there = pair
    before = len(here.engine.opened), len(there.engine.opened)
    with connect(live(there.url), **PLAINLY) as first:
        created = begun(first)
        say(first, "One.")
        with resumed(here, created["resume_token"]) as (second, again):
            assert again["session"] == created["session"]
            said, code = to_the_end(first)
            assert (said[-1]["code"], code) == ("taken_over", 4409)
            receive(second, "turn.done")  # again, since nobody said that it had arrived
            audio, done = say(second, "Two and three.")
            assert done["status"] == "completed" and done["n"] == 2
            assert len(audio) == 4 * len(tones("Two and three."))
    assert len(here.engine.opened) == before[0]
    assert len(there.engine.opened) == before[1] + 2
    assert segments(there)[-1] == "One."


def test_a_farewell_ends_the_session_and_whoever_vanishes_may_come_back(pair: tuple[Member, Member]) -> None:
    here, there = pair
    token = left(there)
    for _ in range(2):
        with resumed(here, token) as (ws, _):
            vanish(ws)
    with resumed(here, token) as (ws, _):
        ws.close(1001)  # a phone that changes networks
    with resumed(here, token) as (ws, _):
        ws.close()
        assert ws.protocol.close_rcvd is not None and ws.protocol.close_rcvd.code == 1000
    with pytest.raises(InvalidStatus) as refused, connect(f"{live(here.url)}?resume={token}", **PLAINLY):
        pass
    assert refused.value.response.status_code == 404


def test_what_the_server_closes_with_arrives(pair: tuple[Member, Member]) -> None:
    here, there = pair
    token = left(there)
    with resumed(here, token) as (ws, _):
        for _ in range(3):
            ws.send("{")
        assert to_the_end(ws)[1] == 4400


def test_it_arrives_also_where_the_client_is_still_sending(pair: tuple[Member, Member]) -> None:
    here, there = pair
    assert answer_to_a_message_too_large(here.url, f"/v1/live?resume={left(there)}") == 1009


def test_a_refused_handshake_is_the_same_on_either_way(tmp_path: Path) -> None:
    settings = Settings(port=0, keys=(SecretStr(KEY),))
    with (
        several(tmp_path, settings) as (here, there),
        connect(live(there.url), additional_headers=RIGHT, **PLAINLY) as ws,
    ):
        token = begun(ws)["resume_token"]
        answers = []
        for member in (here, there):
            with pytest.raises(InvalidStatus) as refused:
                connect(f"{live(member.url)}?resume={token}", additional_headers=WRONG, **PLAINLY)
            response = refused.value.response
            headers = {name: value for name, value in response.headers.raw_items() if name.lower() != "date"}
            answers.append((response.status_code, headers, response.body))
        assert answers[0] == answers[1]
        assert answers[0][0] == 401 and b"wrong key" in answers[0][2]


def test_a_ping_is_answered_by_who_has_the_session(pair: tuple[Member, Member]) -> None:
    here, there = pair
    token = left(there)
    with resumed(here, token) as (ws, _):
        assert ws.ping("are you there").wait(PATIENCE_S)


def test_sockets_and_requests_with_one_name_meet_wherever_they_come_in(tmp_path: Path) -> None:
    with several(tmp_path) as (here, there):
        for member, text in ((here, "One."), (there, "Two."), (here, "Three.")):
            answer = httpx.post(f"{member.url}/s/{ELSEWHERE}{SPEECH}", json={"input": text}, trust_env=False)
            assert answer.status_code == 200
        address = f"{here.url.replace('http', 'ws')}/s/{ELSEWHERE}/v1/text-to-speech/anybody/stream-input"
        with connect(address, **PLAINLY) as ws:
            for text in (" ", "Four. ", ""):
                ws.send(json.dumps({"text": text}))
            with pytest.raises(ConnectionClosed) as end:
                while True:
                    ws.recv(PATIENCE_S)
        assert end.value.rcvd is not None and end.value.rcvd.code == 1000
        assert segments(there) == ["", "One.", "One.Two.", "One.Two.Three."]
        assert segments(here) == []


def test_a_subprotocol_is_agreed_on(pair: tuple[Member, Member]) -> None:
    here, there = pair
    token = left(there)
    with resumed(here, token, subprotocols=["other", "live.v1"]) as (ws, _):
        assert ws.subprotocol == "live.v1"


def test_who_does_not_read_is_dropped(tmp_path: Path) -> None:
    with several(tmp_path, Settings(port=0, limits=Limits(drain_s=1, resume_ttl_s=1))) as (here, there):
        with connect(live(there.url), **PLAINLY) as ws, raw(here.url) as silent:
            token = begun(ws)["resume_token"]
            silent.sendall(handshake(f"/v1/live?resume={token}"))
            assert b"101" in silent.recv(12)
            for command in ({"type": "text.append", "text": LONG}, {"type": "turn.end"}):
                silent.sendall(masked(json.dumps(command).encode()))
            assert there.engine.gone.wait(PATIENCE_S), "nobody came back either"
        assert there.engine.steps < len(LONG) / 2, "nothing is made that nobody takes"


# HTTP


def post(member: Member, path: str, text: str = "Hello.", **options: Any) -> httpx.Response:
    body = {"input": text, "response_format": "pcm"}
    return httpx.post(member.url + path, json=body, trust_env=False, timeout=PATIENCE_S, **options)


def test_an_answer_comes_as_it_is_made_with_the_headers_of_who_made_it(pair: tuple[Member, Member]) -> None:
    here, there = pair
    own, relayed = (post(member, f"/s/{ELSEWHERE}{SPEECH}") for member in (there, here))
    assert settled(own) == settled(relayed)
    assert len(relayed.headers.get_list("date")) == len(relayed.headers.get_list("x-request-id")) == 1
    assert relayed.headers["transfer-encoding"] == "chunked"
    assert len(relayed.content) == len(own.content) > 10_000
    with (
        httpx.Client(base_url=here.url, trust_env=False) as client,
        client.stream("POST", f"/s/{ELSEWHERE}{SPEECH}", json={"input": LONG, "response_format": "pcm"}) as answer,
    ):
        assert next(answer.iter_raw()), "long before the last: below a session it is paced"
        assert there.engine.streams
        cancelled = there.engine.opened[-1].conversation.id
    while cancelled in there.engine.streams:
        pass


def test_the_session_that_a_body_names_is_found(tmp_path: Path) -> None:
    with several(tmp_path) as (here, there):
        for member, text in ((here, "One."), (there, "Two.")):
            answer = httpx.post(
                member.url + SPEECH, json={"input": text, "session": ELSEWHERE}, trust_env=False, timeout=PATIENCE_S
            )
            assert answer.status_code == 200
        assert segments(there) == ["", "One."] and not segments(here)


def test_a_body_is_sent_on_as_it_comes_and_as_long_as_it_is_wanted(pair: tuple[Member, Member]) -> None:
    here, _ = pair
    address = f"{here.url}/s/{ELSEWHERE}{SPEECH}"
    spaces = [b" " * 100_000] * 30  # more than fits anywhere on the way

    def pieces() -> Iterator[bytes]:
        yield from spaces
        yield json.dumps({"input": "Hello.", "response_format": "pcm"}).encode()

    for body in (pieces(), b"".join(pieces())):  # in chunks, and of a known length
        answer = httpx.post(address, content=body, trust_env=False, timeout=PATIENCE_S)
        assert answer.status_code == 200 and len(answer.content) > 10_000
    answer = httpx.post(address, content=b"{", trust_env=False)
    assert answer.status_code == 400 and "error" in answer.json()


def test_a_body_that_is_too_large_is_refused(pair: tuple[Member, Member]) -> None:
    """By whoever has the session: nobody else knows how much a route takes."""
    here, there = pair
    path = f"/s/{ELSEWHERE}{SPEECH}"
    for member in (there, here):
        with raw(member.url) as sock, sock.makefile("rb") as answer:
            size = 40 << 20
            sock.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode())
            sock.sendall(bytes(size))
            assert answer.readline().startswith(b"HTTP/1.1 413")
    assert httpx.get(f"{here.url}/s/{ELSEWHERE}/v1/models", trust_env=False).status_code == 200


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked_for_it(pair: tuple[Member, Member]) -> None:
    here, _ = pair
    body = json.dumps({"input": "Hello.", "response_format": "pcm"}).encode()
    head = f"POST /s/{ELSEWHERE}{SPEECH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with raw(here.url) as sock, sock.makefile("rb") as answer:
        sock.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert answer.readline() == b"HTTP/1.1 100 Continue\r\n" and answer.readline() == b"\r\n"
        sock.sendall(body)
        assert answer.readline().startswith(b"HTTP/1.1 200")
    with raw(here.url) as sock, sock.makefile("rb") as answer:
        sock.sendall(f"{head.replace('/audio/', '/nothing/')}Expect: 100-continue\r\n\r\n".encode())
        assert answer.readline().startswith(b"HTTP/1.1 40"), "and is not asked for one that nobody reads"


def test_a_connection_serves_what_is_here_and_what_is_not(pair: tuple[Member, Member]) -> None:
    here, _ = pair
    with raw(here.url) as sock, sock.makefile("rb") as answers:
        for path in (f"/s/{ELSEWHERE}/v1/models", "/v1/models", f"/s/{name_in(0)}/v1/models") * 2:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert answers.readline().startswith(b"HTTP/1.1 200")
            lengths = [
                int(line[16:]) for line in iter(answers.readline, b"\r\n") if line.startswith(b"content-length: ")
            ]
            assert len(lengths) == 1 and b"scripted" in answers.read(lengths[0])


def test_a_client_of_old_is_understood(pair: tuple[Member, Member]) -> None:
    here, _ = pair
    body = json.dumps({"input": "Hello.", "response_format": "pcm"}).encode()
    with raw(here.url) as sock, sock.makefile("rb") as answer:
        sock.sendall(f"POST /s/{ELSEWHERE}{SPEECH} HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        assert answer.readline().startswith(b"HTTP/1.1 200")
        head = list(iter(answer.readline, b"\r\n"))
        assert not [line for line in head if b"chunked" in line], "it does not know chunks"
        assert len(answer.read()) > 10_000


def test_the_head_of_an_answer_can_be_asked_for(pair: tuple[Member, Member]) -> None:
    here, there = pair
    own, relayed = (httpx.head(f"{member.url}/s/{ELSEWHERE}/v1/models", trust_env=False) for member in (there, here))
    assert own.status_code == relayed.status_code == 200
    assert settled(own) == settled(relayed) and not relayed.content


def test_what_a_sibling_sends_is_not_sent_on(pair: tuple[Member, Member]) -> None:
    here, _ = pair
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(here.shared.relay_path(0))), base_url="http://any") as web:
        before = len(here.engine.opened)
        body = {"input": "Hello.", "response_format": "pcm"}
        assert web.post(f"/s/{ELSEWHERE}{SPEECH}", json=body, timeout=PATIENCE_S).status_code == 200
        assert len(here.engine.opened) == before + 1


# Trouble


def test_who_needs_a_process_that_is_gone_is_told_when_to_come_back(tmp_path: Path) -> None:
    with several(tmp_path) as (here, there):
        with connect(live(there.url), **PLAINLY) as ws:
            token = begun(ws)["resume_token"]
            with resumed(here, token) as (through, _):
                there.kill()
                assert to_the_end(through)[1] == 1012
        there.shared.register(token_name(token))  # as if it had died, and nobody had noticed yet
        answer = post(here, f"/s/{ELSEWHERE}{SPEECH}")
        assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] == "no_capacity"
        address = f"{live(here.url)}?resume={token}"
        with pytest.raises(InvalidStatus) as refused:
            connect(address, **PLAINLY)
        assert refused.value.response.status_code == 503 and refused.value.response.headers["Retry-After"]
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{here.url.replace('http', 'ws')}/s/{ELSEWHERE}/v1/tts/live", **PLAINLY)
        assert refused.value.response.status_code == 503
        with connect(address, origin=here.url, **PLAINLY) as page:
            said, code = to_the_end(page)
            assert (said[0]["code"], code) == ("no_capacity", 4503), "a browser sees no status"
        assert httpx.get(f"{here.url}/v1/models", trust_env=False).status_code == 200


@needs_openssl
def test_processes_that_speak_tls_do_so_to_each_other(tmp_path: Path) -> None:
    settings = Settings(port=0, tls_self_signed=True, tls_dir=tmp_path / "tls")
    folder = tmp_path / "shared"
    folder.mkdir()
    with several(folder, settings, shown=certificate(settings)) as (here, there):
        trust = ssl.create_default_context(cafile=tmp_path / "tls" / "cert.pem")
        answer = httpx.post(
            f"{here.url}/s/{ELSEWHERE}{SPEECH}", json={"input": "Hello."}, verify=trust, trust_env=False
        )
        assert answer.status_code == 200 and len(there.engine.opened) == 2
        asyncio.run(_resumes(there.url, here.url, trust))


async def _resumes(url: str, other: str, trust: ssl.SSLContext) -> None:
    """Not with websockets' threads, which read and write one TLS connection at once: OpenSSL forbids it."""
    async with asyncio.timeout(PATIENCE_S):
        async with open_socket(live(url), ssl=trust, **PLAINLY) as ws:
            created = json.loads(await ws.recv())
            async with open_socket(f"{live(other)}?resume={created['resume_token']}", ssl=trust, **PLAINLY) as again:
                assert json.loads(await again.recv())["session"] == created["session"]


def settled(answer: httpx.Response) -> list[tuple[str, str]]:
    """Its headers, without those that are never the same."""
    return [item for item in answer.headers.multi_items() if item[0] not in ("date", "x-request-id")]

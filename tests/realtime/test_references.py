from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import pytest

from realtime import references
from realtime.references import MAX_BYTES, ReferenceRefused, References, is_public

HERE = "127.0.0.1"


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.9.10",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",  # carriers
        "169.254.169.254",  # what clouds tell their machines
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fd00::1",
        "fec0::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::127.0.0.1",
        "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
        "64:ff9b:1::a00:1",
        "2002:7f00:1::",  # 6to4 of 127.0.0.1
        "2001:0:7f00:1::",  # Teredo
    ],
)
def test_what_is_not_the_internet_is_not_public(address: str) -> None:
    assert not is_public(address)


class Web(BaseHTTPRequestHandler):
    """A web server with a few pages. What it was asked is noted in `asked`."""

    asked: list[tuple[str, str]]  # host header, path

    def do_GET(self) -> None:
        self.asked.append((self.headers["Host"], self.path))
        if self.path == "/voice.wav":
            self._answer(200, b"RIFF")
        elif self.path.startswith("/to/"):
            self._answer(302, b"", self.path.removeprefix("/to/"))
        elif self.path == "/again":
            self._answer(302, b"", "/again")
        elif self.path == "/large":
            self._answer(200, b"x" * (MAX_BYTES + 1))
        elif self.path == "/slow":
            threading.Event().wait(3)
        else:
            self._answer(404, b"no")

    def _answer(self, status: int, body: bytes, location: str | None = None) -> None:
        self.send_response(status)
        if location is not None:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            return  # the other side has had enough

    def log_message(self, *_: object) -> None:
        """Quietly."""


@pytest.fixture
def web() -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Its port, and what it is asked."""
    Web.asked = []
    with ThreadingHTTPServer((HERE, 0), Web) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1], Web.asked
        server.shutdown()
        thread.join()


def fetched(url: str, names: dict[str, list[str]] | None = None, public: Sequence[str] = (HERE,)) -> bytes:
    """With names of our own; every answer of a name may be another one. `public`: addresses that count as such."""

    async def resolve(host: str, port: int) -> Sequence[str]:
        if names is None or host not in names:
            return await references.resolve(host, port)
        return [names[host].pop(0) if len(names[host]) > 1 else names[host][0]]

    allowed = References(None, True, resolve, lambda address: address in public)
    (found,) = anyio.run(allowed.loaded, [(url, "one")])
    return found[0]


def refused(url: str, names: dict[str, list[str]] | None = None, public: Sequence[str] = (HERE,)) -> str:
    with pytest.raises(ReferenceRefused) as error:
        fetched(url, names, public)
    return str(error.value)


Asked = tuple[int, list[tuple[str, str]]]


def test_a_recording_is_fetched_from_the_address_that_was_judged(web: Asked) -> None:
    port, asked = web
    names = {"voices.example": [HERE, "10.0.0.1"]}  # a second look would lead elsewhere
    assert fetched(f"http://voices.example:{port}/voice.wav", names) == b"RIFF"
    assert asked == [(f"voices.example:{port}", "/voice.wav")] and names == {"voices.example": ["10.0.0.1"]}


def test_a_name_that_means_this_machine_is_not_asked(web: Asked) -> None:
    port, asked = web
    for url in (
        f"http://localhost:{port}/voice.wav",
        f"http://127.0.0.1:{port}/",
        f"http://[::1]:{port}/",
        f"http://2130706433:{port}/",
    ):
        assert "public" in refused(url, public=()) or "no such name" in refused(url, public=())
    assert asked == []


def test_one_private_address_among_public_ones_is_enough(web: Asked) -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return ["8.8.8.8", HERE]

    with pytest.raises(ReferenceRefused, match="public"):
        anyio.run(References(None, True, resolve).loaded, [("http://voices.example/", "one")])


def test_a_redirect_is_judged_like_the_first_address(web: Asked) -> None:
    port, _ = web
    names = {"voices.example": [HERE], "inside.example": ["10.0.0.1"]}
    base = f"http://voices.example:{port}"
    assert fetched(f"{base}/to//voice.wav", names) == b"RIFF"
    assert "public" in refused(f"{base}/to/http://inside.example/secret", names)
    assert "public" in refused(f"{base}/to/http://169.254.169.254/latest", names)
    assert "no http(s) address" in refused(f"{base}/to/file:///etc/passwd", names)
    assert "more than 3 times" in refused(f"{base}/again", names)


def test_a_name_that_changes_its_mind_is_judged_each_time(web: Asked) -> None:
    port, _ = web
    names = {"voices.example": [HERE, "10.0.0.1"]}
    assert "public" in refused(f"http://voices.example:{port}/to/http://voices.example:{port}/voice.wav", names)


def test_what_is_too_large_or_missing_is_refused(web: Asked) -> None:
    port, _ = web
    assert "more than" in refused(f"http://{HERE}:{port}/large")
    assert "404" in refused(f"http://{HERE}:{port}/nothing")
    assert "could not be read" in refused(f"http://{HERE}:{closed_port()}/")


def test_a_slow_address_is_given_up(web: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "TIMEOUT_S", 0.2)
    message = refused(f"http://{HERE}:{web[0]}/slow")
    assert "did not answer" in message or "could not be read" in message


@pytest.mark.parametrize(
    "url", ["http://", "http://a b/", "http://user:word@voices.example/", "http://[::1/", "http://x:99999/"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    assert refused(url)


@pytest.mark.parametrize(
    "place", ["http://voices.example/a.wav", "https://voices.example/a.wav", "a.wav", "/a.wav", "file:///a.wav"]
)
def test_nothing_is_allowed_unless_the_operator_says_so(place: str) -> None:
    with pytest.raises(ReferenceRefused, match="operator can allow"):
        anyio.run(References(None, False).loaded, [(place, "one")])


def test_other_schemes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReferenceRefused):
        anyio.run(References(tmp_path, True).loaded, [("ftp://voices.example/a.wav", "one")])


def read(folder: Path, place: str) -> bytes:
    (found,) = anyio.run(References(folder, False).loaded, [(place, "one")])
    return found[0]


def test_a_path_leads_to_a_file_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a b.wav").write_bytes(b"RIFF")
    for place in ("a b.wav", "./a b.wav", str(tmp_path / "a b.wav"), f"file://{tmp_path}/a%20b.wav"):
        assert read(tmp_path, place) == b"RIFF"


def test_a_path_does_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    inside, outside = tmp_path / "voices", tmp_path / "voices-of-others"
    inside.mkdir()
    outside.mkdir()
    (outside / "secret").write_bytes(b"RIFF")
    (inside / "link").symlink_to(outside / "secret")
    messages = set()
    for place in (
        "../voices-of-others/secret",
        str(outside / "secret"),
        "link",
        "missing",
        ".",
        f"file://{outside}/secret",
        "a\0b",
    ):
        with pytest.raises(ReferenceRefused) as error:
            read(inside, place)
        messages.add(str(error.value))
    assert len(messages) == 1, "nobody learns what there is outside"


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(ReferenceRefused, match="more than"):
        read(tmp_path, "large")


def test_what_came_with_the_request_is_passed_on() -> None:
    assert anyio.run(References(None, False).loaded, [(b"RIFF", "one")]) == [(b"RIFF", "one")]


def closed_port() -> int:
    with socket.socket() as free:
        free.bind((HERE, 0))
        port: int = free.getsockname()[1]
    return port

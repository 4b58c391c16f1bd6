"""The codec's routes of the local fish-speech server: what scripts send them, and what comes back."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import anyio
import numpy as np
import ormsgpack
import pytest
import soundfile
from pydantic import SecretStr

from engine.api import Codes, Samples
from realtime.scripted import MINI_LIKE, Script, ScriptedEngine
from realtime.settings import Settings
from tests.realtime.sockets import KEY, RIGHT, serving

RATE = MINI_LIKE.sample_rate


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ScriptedEngine(Script(step_s=0.001)), Settings(port=0, keys=(SecretStr(KEY),))) as found:
        yield found


def ask(address: str, body: object = None, packed: bool = True, **headers: str) -> tuple[int, Any]:
    """Status and answer, unpacked."""
    data = body if isinstance(body, bytes) else ormsgpack.packb(body) if packed else json.dumps(body).encode()
    kind = "application/msgpack" if packed else "application/json"
    try:
        with urlopen(Request(address, data, {"Content-Type": kind, **RIGHT, **headers})) as answer:
            assert answer.headers["Content-Type"] == "application/msgpack"
            return answer.status, ormsgpack.unpackb(answer.read())
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def tone(seconds: float, rate: int = RATE, form: str = "WAV") -> bytes:
    file = io.BytesIO()
    times = np.arange(int(seconds * rate)) / rate
    soundfile.write(file, 0.3 * np.sin(2 * np.pi * 440 * times), rate, format=form)
    return file.getvalue()


@pytest.mark.parametrize("prefix", ["", "/s/talk"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_it_is_healthy(url: str, prefix: str, method: str) -> None:
    with urlopen(Request(f"{url}{prefix}/v1/health", headers=RIGHT, method=method)) as answer:
        assert json.loads(answer.read()) == {"status": "ok"}


def test_recordings_become_codes_and_codes_become_sound(url: str) -> None:
    status, found = ask(f"{url}/v1/vqgan/encode", {"audios": [tone(1.0), tone(0.5, 16_000, "FLAC")]})
    assert status == 200
    first, second = found["tokens"]
    assert {len(codes) for codes in (first, second)} == {MINI_LIKE.codebooks}
    assert len(first[0]) == int(RATE / MINI_LIKE.frame_samples) and abs(len(second[0]) - len(first[0]) / 2) <= 1
    status, found = ask(f"{url}/v1/vqgan/decode", {"tokens": [first, second]})
    assert status == 200
    sounds = [np.frombuffer(audio, np.float16) for audio in found["audios"]]
    assert [len(sound) for sound in sounds] == [len(codes[0]) * MINI_LIKE.frame_samples for codes in (first, second)]
    spectrum = np.abs(np.fft.rfft(sounds[0].astype(np.float32)))
    assert spectrum.argmax() * RATE / len(sounds[0]) == pytest.approx(440, rel=0.05), "and it is the tone"


def test_json_says_the_same(url: str) -> None:
    body = {"audios": [base64.b64encode(tone(1.0)).decode()]}
    status, found = ask(f"{url}/v1/vqgan/encode", body, packed=False)
    assert (status, found) == ask(f"{url}/v1/vqgan/encode", {"audios": [tone(1.0)]})
    status, sound = ask(f"{url}/v1/vqgan/decode", found, packed=False)
    assert status == 200 and len(sound["audios"]) == 1


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (b"\xc1", 400, "MessagePack"),
        ([], 422, "object"),
        ({}, 422, "audios"),
        ({"audios": "x"}, 422, "audios"),
        ({"audios": [5]}, 422, "audios.0"),
        ({"audios": [tone(1.0), b"RIFF"]}, 422, "audios.1"),
        ({"audios": [tone(1.0)] * 17}, 422, "16"),
        ({"audios": [tone(0.01)]}, 422, "frame"),
        ({"audios": [tone(301.0, 8000)] * 2}, 413, "600 s"),
    ],
)
def test_what_cannot_be_encoded_is_refused(url: str, body: object, status: int, where: str) -> None:
    found, error = ask(f"{url}/v1/vqgan/encode", body)
    assert (found, error["status"]) == (status, status)
    assert where in error["message"]


CODES = [[1, 2]] * MINI_LIKE.codebooks


@pytest.mark.parametrize(
    ("tokens", "status", "where"),
    [
        (5, 422, "tokens"),
        ([5], 422, "tokens.0"),
        ([CODES, CODES[1:]], 422, "tokens.1"),
        ([[[]] * MINI_LIKE.codebooks], 422, "tokens.0"),
        ([[[1], *CODES[1:]]], 422, "different length"),
        ([[[1, -1], *CODES[1:]]], 422, "from 0"),
        ([[[1, 40_000], *CODES[1:]]], 422, "from 0"),
        ([[[1, 1.5], *CODES[1:]]], 422, "from 0"),
        ([[[1] * 20_000] * MINI_LIKE.codebooks], 413, "frames"),
    ],
)
def test_what_cannot_be_decoded_is_refused(url: str, tokens: object, status: int, where: str) -> None:
    found, error = ask(f"{url}/v1/vqgan/decode", {"tokens": tokens})
    assert (found, error["status"]) == (status, status)
    assert where in error["message"]


class Slow(ScriptedEngine):
    """It encodes for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.stopped = threading.Event(), threading.Event()

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        self.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.stopped.set()
        raise AssertionError("it does not end")


def test_a_script_that_goes_away_stops_the_work() -> None:
    engine = Slow()
    with serving(engine) as url:
        body = ormsgpack.packb({"audios": [tone(1.0)]})
        place = urlsplit(url)
        with socket.create_connection((str(place.hostname), place.port)) as peer:
            head = f"POST /v1/vqgan/encode HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/msgpack\r\n"
            peer.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert engine.began.wait(10)
        assert engine.stopped.wait(10)


def test_a_key_is_asked_for_and_foreign_pages_are_not_let_in(url: str) -> None:
    for path in ("/v1/vqgan/encode", "/s/talk/v1/vqgan/decode", "/v1/health"):
        assert ask(url + path, {}, Authorization="Bearer wrong-wrong")[0] == 401
    assert ask(f"{url}/v1/vqgan/encode", {}, Origin="https://evil.example")[0] == 403

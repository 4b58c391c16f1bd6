"""OpenAI's speech on a real server whose engine speaks tones: formats that decode, requests of other servers' manuals, batches, voices."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from websockets.sync.client import connect

from engine.api import Busy, Codes, Samples
from realtime.scripted import Script, ScriptedEngine
from realtime.settings import Settings
from tests.realtime.sockets import PATIENCE_S, serving

SPEECH = "/v1/audio/speech"
TEXT = "Hello, how are you?"


def decoded(file: bytes, rate: int) -> Any:
    """What ffmpeg hears in it."""
    command = ["ffmpeg", "-v", "error", "-i", "-", "-f", "f32le", "-ar", str(rate), "-"]
    return np.frombuffer(subprocess.run(command, input=file, capture_output=True, check=True).stdout, "<f4")


def recording() -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(1).normal(0, 0.1, 48_000) * np.abs(np.sin(np.arange(48_000) / 3000))
    soundfile.write(file, noise.astype(np.float32), 16_000, format="WAV")
    return file.getvalue()


REFERENCE = recording()


class Full(ScriptedEngine):
    """Has no time for recordings."""

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        raise Busy(3.0)


@pytest.fixture(scope="module")
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture(scope="module")
def http(engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("references")
    (folder / "reference.wav").write_bytes(REFERENCE)
    settings = Settings(port=0, voices_dir=tmp_path_factory.mktemp("voices"), reference_paths=folder)
    with serving(engine, settings) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


def ask(http: httpx.Client, **fields: Any) -> httpx.Response:
    answer = http.post(SPEECH, json=fields)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
@pytest.mark.parametrize("name", ["wav", "flac", "mp3", "opus"])
def test_each_format_decodes_to_the_same_sound(http: httpx.Client, name: str) -> None:
    answer = ask(http, input=TEXT, response_format=name)
    rate = int(answer.headers["x-sample-rate"])
    plain = ask(http, input=TEXT, response_format="pcm", sample_rate=rate)
    wanted = np.frombuffer(plain.content, "<i2") / 32768
    heard = decoded(answer.content, rate)
    if name == "mp3":  # its decoder does not know how much silence there is at the start and the end
        assert len(wanted) <= len(heard) <= len(wanted) + 4 * 1152
        return
    assert abs(len(heard) - len(wanted)) <= (rate // 1000 if name == "opus" else 0)
    size = min(len(heard), len(wanted))
    likeness = np.corrcoef(heard[:size], wanted[:size])[0, 1]
    assert likeness > (0.94 if name == "opus" else 0.999999)  # Opus turns the phase of low tones


def test_the_answer_says_what_it_is(http: httpx.Client) -> None:
    one, two = ask(http, input=TEXT, model="tts-1"), ask(http, input=TEXT)
    assert (one.headers["content-type"], two.headers["content-type"]) == ("audio/mpeg", "audio/wav")
    assert one.headers["x-request-id"] != two.headers["x-request-id"]
    assert http.post(SPEECH, json={}).headers["x-request-id"], "a refusal, too"
    for page in ("/v1/audio/voices", "/s/talk/v1/audio/voices", "/v1/voices"):
        assert http.get(page).headers["x-request-id"]
    assert http.post(SPEECH + "/batch", json={}).headers["x-request-id"]
    assert two.headers["transfer-encoding"] == "chunked"


def test_wav_has_one_header_of_a_stream(http: httpx.Client) -> None:
    content = ask(http, input=TEXT).content
    assert content[:4] == b"RIFF" and content[4:8] == b"\xff" * 4 and content.count(b"RIFF") == 1


@pytest.mark.parametrize(
    "body",
    [
        {"input": "Hello."},
        {"input": "Hello.", "stream": True, "response_format": "pcm"},
        {"model": "fishaudio/s2-pro", "voice": "default", "input": "Hello, how are you?"},
        {"input": "Hello, how are you?", "voice": "vivian", "language": "English"},
        {"input": "I am so excited!", "voice": "vivian", "instructions": "Speak with great enthusiasm"},
        {"input": "Hello.", "ref_audio": base64.b64encode(REFERENCE).decode(), "ref_text": "What is said in it."},
        {
            "input": "Hello, this is a cloned voice",
            "task_type": "Base",
            "ref_audio": "data:audio/wav;base64," + base64.b64encode(REFERENCE).decode(),
            "ref_text": "Original transcript of the reference audio",
            "non_streaming_mode": True,
        },
        {
            "model": "fishaudio/s2-pro",
            "voice": "default",
            "input": "Get the trust fund to the bank early.",
            "references": [{"audio_path": "reference.wav", "text": "We asked over twenty different people."}],
            "stream": True,
            "response_format": "pcm",
        },
    ],
)
def test_the_requests_of_other_servers_manuals_work_as_written(http: httpx.Client, body: dict[str, Any]) -> None:
    answer = ask(http, **body)
    assert len(answer.content) > 4000


def test_a_stream_of_samples_has_the_model_s_own_rate(http: httpx.Client, engine: ScriptedEngine) -> None:
    answer = ask(http, input=TEXT, stream=True, response_format="pcm")
    assert (
        answer.headers["x-sample-rate"] == str(engine.info.sample_rate)
        and answer.headers["content-type"] == "audio/pcm"
    )


def test_what_is_drawn_can_be_set(http: httpx.Client, engine: ScriptedEngine) -> None:
    ask(http, input="Hi.", temperature=0.5, top_p=0.6, top_k=7, repetition_penalty=1.2, seed=3, max_new_tokens=5)
    drawn = engine.opened[-1].params
    assert (drawn.temperature, drawn.top_p, drawn.top_k, drawn.repetition_penalty) == (0.5, 0.6, 7, 1.2)
    assert (drawn.seed, drawn.max_frames) == (3, 5)


def test_references_are_the_voice_of_one_request(http: httpx.Client, engine: ScriptedEngine) -> None:
    ask(http, input="Hi.", ref_audio="reference.wav", ref_text="One.")
    ask(http, input="Hi.", references=[{"audio_path": "reference.wav", "text": "One."}])
    one, two = engine.opened[-2].voice, engine.opened[-1].voice
    assert one.id == two.id and [reference.text for reference in one.references] == ["One."]
    ask(http, input="Hi.")
    assert engine.opened[-1].voice.references == ()
    assert http.get("/v1/audio/voices").json()["voices"] == ["default"], "it is in no list"


@pytest.mark.parametrize("place", ["../reference.wav", "/etc/hostname", "http://127.0.0.1/a.wav"])
def test_references_elsewhere_are_refused(http: httpx.Client, place: str) -> None:
    answer = http.post(SPEECH, json={"input": "Hi.", "ref_audio": place, "ref_text": "One."})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_a_reference_that_is_no_sound_is_refused(http: httpx.Client) -> None:
    answer = http.post(SPEECH, json={"input": "Hi.", "ref_audio": "AAAA", "ref_text": "One."})
    assert answer.status_code == 400 and "recording" in answer.json()["error"]["message"]


def test_an_engine_that_has_no_time_for_a_reference_is_asked_again_later() -> None:
    with serving(Full(), Settings(port=0)) as url:
        fields = {"input": "Hi.", "ref_audio": base64.b64encode(REFERENCE).decode(), "ref_text": "One."}
        answer = httpx.post(url + SPEECH, json=fields, timeout=PATIENCE_S)
    assert answer.status_code == 503 and answer.headers["retry-after"] == "3"
    assert answer.json()["error"]["type"] == "server_error"


def test_a_batch_is_answered_in_the_order_of_its_items(http: httpx.Client) -> None:
    items = [{"input": "One."}, {"input": ""}, {"input": "Two three.", "response_format": "pcm"}, 7]
    answer = http.post(SPEECH + "/batch", json={"items": items, "voice": "default"}).json()
    assert (answer["total"], answer["succeeded"], answer["failed"]) == (4, 2, 2)
    one, two, three, four = answer["results"]
    assert (one["index"], one["status"], one["media_type"]) == (0, "success", "audio/wav")
    assert base64.b64decode(one["audio_data"]) == ask(http, input="One.").content
    assert two == {"index": 1, "status": "error", "error": "input: there is no text"}
    assert (three["status"], three["media_type"]) == ("success", "audio/pcm") and four["status"] == "error"


def test_a_batch_speaks_as_many_items_at_a_time_as_there_are_places() -> None:
    engine = ScriptedEngine(Script(step_s=0.005, max_streams=3))
    most = 0

    def watch() -> int:
        return len(engine.streams)

    with serving(engine, Settings(port=0, admission_timeout_s=0.05)) as url:
        opened = engine.open

        def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal most
            stream = opened(*arguments, **named)
            most = max(most, watch())
            return stream

        engine.open = counted  # type: ignore[method-assign]
        items = [{"input": f"Number {number}."} for number in range(32)]
        answer = httpx.post(url + SPEECH + "/batch", json={"items": items}, timeout=PATIENCE_S).json()
    assert answer["succeeded"] == 32 and most == 3


@pytest.mark.parametrize("body", [{}, {"items": []}, {"items": [{"input": "Hi."}] * 33}, {"items": "Hi."}, []])
def test_a_batch_of_none_or_too_many_is_refused(http: httpx.Client, body: Any) -> None:
    answer = http.post(SPEECH + "/batch", json=body)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "items"


def test_voices_come_and_go(http: httpx.Client, engine: ScriptedEngine) -> None:
    form = {"name": "anna", "consent": "yes", "ref_text": "What is said in it."}
    added = http.post("/v1/audio/voices", data=form, files={"audio_sample": ("a.wav", REFERENCE, "audio/wav")})
    assert added.status_code == 200 and added.json()["success"], added.text
    described = added.json()["voice"]
    assert (described["name"], described["mime_type"], described["file_size"]) == ("anna", "audio/wav", len(REFERENCE))
    listed = http.get("/s/any/v1/audio/voices").json()
    assert listed["voices"] == ["default", "anna"] and listed["uploaded_voices"] == [described]
    ask(http, input="Hi.", voice={"id": "anna"})
    assert [reference.text for reference in engine.opened[-1].voice.references] == ["What is said in it."]
    assert http.delete("/v1/audio/voices/anna").json()["success"]
    gone = http.delete("/v1/audio/voices/anna")
    assert gone.status_code == 404 and gone.json() == {"success": False, "error": "Voice 'anna' not found"}
    ask(http, input="Hi.", voice="anna")
    assert engine.opened[-1].voice.references == (), "an unknown voice is the default"


@pytest.mark.parametrize(
    ("form", "audio", "param"),
    [
        ({"ref_text": "One."}, REFERENCE, "name"),
        ({"name": "../x", "ref_text": "One."}, REFERENCE, "name"),
        ({"name": "default", "ref_text": "One."}, REFERENCE, "name"),
        ({"name": "x"}, REFERENCE, "ref_text"),
        ({"name": "x", "ref_text": "One."}, b"no sound at all", "audio_sample"),
        ({"name": "x", "ref_text": "One."}, None, "audio_sample"),
    ],
)
def test_an_upload_that_can_be_no_voice_is_refused(
    http: httpx.Client, form: dict[str, str], audio: bytes | None, param: str
) -> None:
    files = {"audio_sample": ("a.wav", audio)} if audio is not None else {"other": ("b", b"")}
    answer = http.post("/v1/audio/voices", data=form, files=files)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_large_upload_is_refused_unread(http: httpx.Client) -> None:
    connection = HTTPConnection(http.base_url.host, http.base_url.port, timeout=PATIENCE_S)
    connection.putrequest("POST", "/v1/audio/voices")
    connection.putheader("Content-Length", str(2**30))
    connection.endheaders(b"x")
    assert connection.getresponse().status == 413
    connection.close()


def test_an_alias_names_a_voice_by_another_vendor_s_name(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    settings = Settings(port=0, voices_dir=tmp_path, voice_aliases={"alloy": "anna"})
    with serving(engine, settings) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        form = {"name": "anna", "ref_text": "One."}
        assert client.post("/v1/audio/voices", data=form, files={"audio_sample": ("a", REFERENCE)}).status_code == 200
        ask(client, input="Hi.", model="tts-1", voice="alloy")
        assert [reference.text for reference in engine.opened[-1].voice.references] == ["One."]
        ask(client, input="Hi.", model="tts-1", voice="nova")
        assert engine.opened[-1].voice.references == ()


def test_text_in_pieces_is_spoken_over_a_socket(http: httpx.Client) -> None:
    url = str(http.base_url).replace("http", "ws", 1).rstrip("/") + SPEECH + "/stream"
    with connect(url, compression=None, proxy=None) as socket:
        for message in (
            {"type": "session.config", "response_format": "pcm", "stream_audio": True},
            {"type": "input.text", "text": "Hello, "},
            {"type": "input.text", "text": "how are you?"},
            {"type": "input.done"},
            {"type": "session.close"},
        ):
            socket.send(json.dumps(message))
        kinds, size = [], 0
        for said in socket:
            if isinstance(said, bytes):
                size += len(said)
            else:
                kinds.append(json.loads(said)["type"])
        assert kinds == ["audio.start", "audio.done", "session.done"] and socket.close_code == 1000
    assert size == len(ask(http, input=TEXT, response_format="pcm").content)


@pytest.mark.parametrize("text", ['"Hi \\ud83d"', '"\\ud83d\\ude00 Hi"', '"\\ude00 Hi"'])
def test_half_a_character_is_no_mistake_of_ours(http: httpx.Client, text: str) -> None:
    for path, field in ((SPEECH, "input"), ("/v1/tts", "text")):
        answer = http.post(path, content=f'{{"{field}": {text}}}', headers={"Content-Type": "application/json"})
        assert answer.status_code == 200, answer.text
    batch = http.post(SPEECH + "/batch", content=f'{{"items": [{{"input": {text}}}]}}').json()
    assert batch["succeeded"] == 1
    url = str(http.base_url).replace("http", "ws", 1).rstrip("/") + SPEECH + "/stream"
    with connect(url, compression=None, proxy=None) as socket:
        socket.send(f'{{"type": "input.text", "text": {text}}}')
        socket.send('{"type": "input.done"}')
        assert json.loads(socket.recv(PATIENCE_S))["type"] == "audio.start"

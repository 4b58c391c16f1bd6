"""What OpenAI's clients, and those of self-hosted servers, ask for besides speech: models and voices.

Knows their fields. Does not know how voices are stored or encoded. Source: vLLM-Omni's manual, "Voices Endpoint".
"""

from __future__ import annotations

import logging
from os import SEEK_END
from typing import Final

from anyio.to_thread import run_sync
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from engine.api import EngineError
from protocol.dialects.interface import Refused
from protocol.dialects.openai_speech import errors
from realtime.dialects.entering import owner, response
from realtime.recording_file import RecordingRefused, read
from realtime.references import MAX_BYTES
from realtime.service import Service
from realtime.voice_folder import NAME_RULE, NewSource, VoiceNotFound, VoiceUnusable, is_name

log = logging.getLogger("parley.voices")

FORM_BYTES: Final = 64 * 1024  # of what is not the recording


async def voices(request: Request) -> Response:
    """`GET /v1/audio/voices`."""
    store = _service(request).voices
    uploaded = [await run_sync(_described, _service(request), name) for name in store.names()[1:]]
    return JSONResponse({"voices": store.names(), "uploaded_voices": [one for one in uploaded if one is not None]})


async def add_voice(request: Request) -> Response:
    """`POST /v1/audio/voices`, multipart: `name`, `audio_sample`, `ref_text`. A voice of that name is replaced."""
    service = _service(request)
    try:
        owner(service, dict(request.headers))
        length = request.headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES + FORM_BYTES:
            raise Refused(413, f"a recording has at most {MAX_BYTES} bytes, and Content-Length says how many")
        try:
            async with request.form(max_files=1, max_fields=16, max_part_size=FORM_BYTES) as form:
                name, audio, text = await _fields(form)
        except MultiPartException as error:
            raise Refused(400, f"the body is no form: {error.message}") from None
        await run_sync(_store, service, name, audio, text)
        try:
            await service.encoder.ready(name)
        except EngineError as error:  # it is tried again when the engine has time
            log.warning("voice %r is encoded later: %s", name, error)
        return JSONResponse({"success": True, "voice": await run_sync(_described, service, name)})
    except Refused as refused:
        return response(refused, errors)


async def remove_voice(request: Request) -> Response:
    """`DELETE /v1/audio/voices/{name}`."""
    service, name = _service(request), request.path_params["name"]
    try:
        owner(service, dict(request.headers))
        await run_sync(service.voices.files.remove, name)
    except Refused as refused:
        return response(refused, errors)
    except VoiceNotFound:
        return JSONResponse({"success": False, "error": f"Voice {name!r} not found"}, status_code=404)
    except (VoiceUnusable, OSError) as error:
        return response(Refused(500, f"the voice cannot be removed: {error}", "server_error"), errors)
    return JSONResponse({"success": True, "message": f"Voice {name!r} deleted successfully"})


async def _fields(form: FormData) -> tuple[str, bytes, str]:
    name, sample, text = form.get("name"), form.get("audio_sample"), form.get("ref_text")
    if not isinstance(name, str) or not is_name(name):
        raise Refused(400, f"name: {NAME_RULE}", "invalid_value", "name")
    if not isinstance(sample, UploadFile):
        raise Refused(400, "audio_sample: there is no recording", "invalid_value", "audio_sample")
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, "ref_text: say what is said in the recording", "invalid_value", "ref_text")
    return name, await sample.read(), text.strip()


def _store(service: Service, name: str, audio: bytes, text: str) -> None:
    """Raises Refused."""
    files = service.voices.files
    try:
        read(audio)
        files.add(name, [NewSource(audio, text)])
    except RecordingRefused as error:
        raise Refused(400, f"audio_sample: {error}", "invalid_value", "audio_sample") from None
    except VoiceUnusable as error:
        raise Refused(400, str(error), "invalid_value", "name") from None
    except OSError as error:
        raise Refused(500, f"the folder of voices cannot be written: {error.strerror}", "server_error") from None


def _described(service: Service, name: str) -> dict[str, object] | None:
    """None: it was removed meanwhile, or cannot be read."""
    files = service.voices.files
    try:
        source, changed = files.sources(name)[0], files.version(name)[1]
        with files.recording(source.recording).open("rb") as file:
            media_type, size = _media_type(file.read(12)), file.seek(0, SEEK_END)
    except (VoiceNotFound, VoiceUnusable, OSError):
        return None
    return {
        "name": name,
        "created_at": changed // 1_000_000_000,
        "file_size": size,
        "mime_type": media_type,
        "ref_text": source.text,
    }


def _media_type(head: bytes) -> str:
    if head[:4] == b"RIFF":
        return "audio/wav"
    if head[:4] == b"fLaC":
        return "audio/flac"
    if head[:4] == b"OggS":
        return "audio/ogg"
    return "audio/mpeg"


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service

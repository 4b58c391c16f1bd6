"""What OpenAI's clients, and those of self-hosted servers, ask for besides speech: models and voices.

Knows their fields. Does not know how voices are stored or encoded. Source: vLLM-Omni's manual, "Voices Endpoint".
"""

from __future__ import annotations

from os import SEEK_END

from anyio.to_thread import run_sync
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from protocol.dialects.interface import Refused
from protocol.dialects.openai_speech import errors
from realtime.dialects.entering import owner, response
from realtime.dialects.uploads import forget, form_of, keep
from realtime.service import Service
from realtime.voice_folder import NAME_RULE, VoiceNotFound, VoiceUnusable, is_name


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
        async with form_of(request) as form:
            name, audio, text = await _fields(form)
        await keep(service, name, audio, text, "audio_sample")
        return JSONResponse({"success": True, "voice": await run_sync(_described, service, name)})
    except Refused as refused:
        return response(refused, errors)


async def remove_voice(request: Request) -> Response:
    """`DELETE /v1/audio/voices/{name}`."""
    service, name = _service(request), request.path_params["name"]
    try:
        owner(service, dict(request.headers))
        await forget(service, name)
    except Refused as refused:
        return response(refused, errors)
    except VoiceNotFound:
        return JSONResponse({"success": False, "error": f"Voice {name!r} not found"}, status_code=404)
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

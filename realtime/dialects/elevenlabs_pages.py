"""What ElevenLabs' clients ask for besides speech: the list of voices, one more, and one less.

Knows its fields. Does not know how voices are stored.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, count
from typing import Final

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from protocol.dialects.elevenlabs_http import errors
from protocol.dialects.interface import Refused
from realtime.dialects.entering import owner, response
from realtime.dialects.uploads import forget, form_of, keep
from realtime.service import Service
from realtime.voice_folder import VoiceNotFound

ID_CHARS: Final = 56
NO_WORDS: Final = (
    "ref_text: say what is said in the recording, in a field of this name; elevenlabs-python adds it by "
    "request_options={'additional_body_parameters': {'ref_text': '...'}}"
)
_NO_PART: Final = re.compile(r"[^A-Za-z0-9_-]+")


async def voices(request: Request) -> Response:
    """`GET /v1/voices`."""
    service = _service(request)
    try:
        owner(service, dict(request.headers))
    except Refused as refused:
        return response(refused, errors)
    return JSONResponse({"voices": [_voice(name) for name in service.voices.names()]})


async def found_voices(request: Request) -> Response:
    """`GET /v2/voices`: those whose name has `search` in it, all on one page."""
    service = _service(request)
    try:
        owner(service, dict(request.headers))
    except Refused as refused:
        return response(refused, errors)
    wanted = request.query_params.get("search", "").casefold()
    found = [_voice(name) for name in service.voices.names() if wanted in name.casefold()]
    return JSONResponse({"voices": found, "has_more": False, "total_count": len(found), "next_page_token": None})


async def voice(request: Request) -> Response:
    """`GET /v1/voices/{name}`."""
    service, name = _service(request), request.path_params["name"]
    try:
        owner(service, dict(request.headers))
        if name not in service.voices.names():
            raise _missing(name)
    except Refused as refused:
        return response(refused, errors)
    return JSONResponse(_voice(name))


async def add_voice(request: Request) -> Response:
    """`POST /v1/voices/add`, multipart: `name`, `files` (one), and of our own `ref_text`: no voice is made without its words."""
    service = _service(request)
    try:
        owner(service, dict(request.headers))
        async with form_of(request) as form:
            name, sample, text = form.get("name"), form.get("files"), form.get("ref_text")
            if not isinstance(name, str) or not name.strip():
                raise Refused(422, "name: there is none", "invalid_value", "name")
            if not isinstance(sample, UploadFile):
                raise Refused(422, "files: there is no recording", "invalid_value", "files")
            if not isinstance(text, str) or not text.strip():
                raise Refused(422, NO_WORDS, "invalid_value", "ref_text")
            audio = await sample.read()
        voice_id = _unused(name, service.voices.names())
        await keep(service, voice_id, audio, text.strip(), "files")
        return JSONResponse({"voice_id": voice_id, "requires_verification": False})
    except Refused as refused:
        return response(refused, errors)


async def remove_voice(request: Request) -> Response:
    """`DELETE /v1/voices/{name}`."""
    service, name = _service(request), request.path_params["name"]
    try:
        owner(service, dict(request.headers))
        await forget(service, name)
    except VoiceNotFound:
        return response(_missing(name), errors)
    except Refused as refused:
        return response(refused, errors)
    return JSONResponse({"status": "ok"})


def _missing(name: str) -> Refused:
    return Refused(404, f"there is no voice {name!r}", "voice_not_found", "voice_id")


def _unused(name: str, taken: Sequence[str]) -> str:
    """An id made of a name that was given for people: like it, and no other voice's."""
    plain = _NO_PART.sub("-", name).strip("-_")[:ID_CHARS] or "voice"
    ids = chain([plain], (f"{plain}-{number}" for number in count(2)))
    return next(one for one in ids if one not in taken)


def _voice(name: str) -> dict[str, object]:
    """What clients read of one: an id to ask for it by, a name to show, and where it comes from."""
    category = "premade" if name == "default" else "cloned"
    return {"voice_id": name, "name": name, "category": category, "labels": {}, "settings": None}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service

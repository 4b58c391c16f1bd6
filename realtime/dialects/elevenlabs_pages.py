"""What ElevenLabs' clients ask for besides speech: the list of voices.

Knows its fields. Does not know how voices are stored.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from protocol.dialects.elevenlabs_http import errors
from protocol.dialects.interface import Refused
from realtime.dialects.entering import owner, response
from realtime.service import Service


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
            raise Refused(404, f"there is no voice {name!r}", "voice_not_found", "voice_id")
    except Refused as refused:
        return response(refused, errors)
    return JSONResponse(_voice(name))


def _voice(name: str) -> dict[str, object]:
    """What clients read of one: an id to ask for it by, a name to show, and where it comes from."""
    category = "premade" if name == "default" else "cloned"
    return {"voice_id": name, "name": name, "category": category, "labels": {}, "settings": None}


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service

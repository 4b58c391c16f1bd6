"""Where Fish Audio's clients connect to, and the shape of its errors."""

from __future__ import annotations

import json
from typing import Final

import ormsgpack

from protocol.dialects.fish import FishLive
from protocol.dialects.fish_request import FishRequest
from protocol.dialects.interface import Dialect, Host, Opening, Refused, RequestRoute, SocketRoute
from protocol.dialects.oneshot import OneShot, Wanted

REQUEST_BYTES: Final = 32 * 1024 * 1024  # references come along: half a minute of wav is 3 MB


def errors(refused: Refused) -> tuple[str, str]:
    """The legacy SDK makes its exception of exactly these two."""
    return "application/json", json.dumps({"message": refused.message, "status": refused.status})


def speech(host: Host, opening: Opening) -> Dialect:
    """`POST /v1/tts`. Raises Refused."""
    request = FishRequest.read(_body(opening))
    if not request.text.strip():
        raise Refused(422, "text: there is none", param="text")
    if len(request.text) > host.limits.turn_chars:
        raise Refused(422, f"text: more than {host.limits.turn_chars} characters", param="text")
    encoder = request.encoder(host)
    return OneShot(
        host,
        Wanted(
            text=request.text,
            encoder=encoder,
            settings=lambda voice: request.settings(host, encoder, voice),
            errors=errors,
            recordings=request.recordings(),
        ),
    )


def _body(opening: Opening) -> object:
    if "msgpack" in opening.headers.get("content-type", ""):
        try:
            return ormsgpack.unpackb(opening.body)
        except ormsgpack.MsgpackDecodeError as error:
            raise Refused(400, f"the body is not MessagePack: {error}") from None
    try:
        return json.loads(opening.body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None


SOCKETS: Final = tuple(
    SocketRoute(path, FishLive, errors, REQUEST_BYTES) for path in ("/v1/tts/live", "/v1/tts/live/with-timestamp")
)
REQUESTS: Final = (RequestRoute("/v1/tts", speech, errors, REQUEST_BYTES),)

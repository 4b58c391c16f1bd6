"""Where Deepgram's clients connect to: both sockets, and sound over HTTP."""

from __future__ import annotations

from typing import Final

from protocol.dialects.deepgram import SpeakSocket
from protocol.dialects.deepgram_flux import FluxSocket
from protocol.dialects.deepgram_markup import Markup
from protocol.dialects.deepgram_request import MAX_BYTES, SpeakRequest, errors, read_object
from protocol.dialects.interface import Dialect, Host, Opening, Refused, RequestRoute, SocketRoute
from protocol.dialects.oneshot import OneShot, Wanted


def speech(host: Host, opening: Opening) -> Dialect:
    """`POST /v1/speak`, `POST /v2/speak`. Raises Refused."""
    request = SpeakRequest.read(opening.query)
    text = read_object(opening.body).get("text")
    if not isinstance(text, str) or not text.strip():
        raise Refused(400, "text: there is none", param="text")
    if len(text) > host.limits.turn_chars:
        raise Refused(413, f"text: more than {host.limits.turn_chars} characters", param="text")
    markup = Markup()
    text = markup.text(text) + markup.rest()
    encoder = request.answer_encoder(host)
    return OneShot(host, Wanted(text, encoder, lambda _: request.settings(host, encoder), errors))


SOCKETS: Final = (
    SocketRoute("/v1/speak", SpeakSocket, errors, MAX_BYTES),
    SocketRoute("/v2/speak", FluxSocket, errors, MAX_BYTES),
)
REQUESTS: Final = (RequestRoute("/v1/speak", speech, errors), RequestRoute("/v2/speak", speech, errors))

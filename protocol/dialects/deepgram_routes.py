"""Where Deepgram's clients connect to: both sockets, and sound over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


_SCHEMES: Final = ("token", "bearer")


def key_in_subprotocols(offered: Sequence[str]) -> str | None:
    """As a page shows it, which can set no headers: the name of a scheme, and the key behind it."""
    return offered[1] if len(offered) == 2 and offered[0].lower() in _SCHEMES else None


def _socket(path: str, open_: Callable[[Host, Opening], Dialect]) -> SocketRoute:
    return SocketRoute(
        path,
        open_,
        errors,
        MAX_BYTES,
        subprotocols=_SCHEMES,
        key_in_subprotocols=key_in_subprotocols,
        reason_header="dg-error",  # pipecat shows what is in it
    )


SOCKETS: Final = (_socket("/v1/speak", SpeakSocket), _socket("/v2/speak", FluxSocket))
REQUESTS: Final = (RequestRoute("/v1/speak", speech, errors), RequestRoute("/v2/speak", speech, errors))

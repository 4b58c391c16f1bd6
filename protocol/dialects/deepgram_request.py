"""What Deepgram's clients ask for: the query of the address, the same on sockets and over HTTP, and the shape of errors.

Knows its fields, their defaults and what they are natively. Does not know messages or turns. Unknown fields are let pass.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from protocol.commands import SessionUpdate
from protocol.config import MAX_SPEED, MIN_SPEED, Language
from protocol.dialects.interface import FormatRefused, Host, Refused, SoundFormat, StreamEncoder
from protocol.dialects.settings import first_error, settings

QUIET_S: Final = 5.0  # LiveKit gives up after ten seconds without a message
RATE_HZ: Final = 24_000
MAX_BYTES: Final = 256 * 1024  # of a message
_RAW: Final = {"linear16": "pcm", "mulaw": "mulaw", "alaw": "alaw"}
_ENCODED: Final = ("mp3", "opus", "flac", "aac")
_LANGUAGES: Final = {"en": Language.ENGLISH, "de": Language.GERMAN}


class SpeakRequest(BaseModel):
    """How to speak."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    encoding: str | None = None
    sample_rate: int | None = None
    container: str | None = None
    bit_rate: int | None = None
    speed: float = Field(default=1.0, ge=MIN_SPEED, le=MAX_SPEED)

    @classmethod
    def read(cls, query: Mapping[str, str]) -> SpeakRequest:
        """Raises Refused 400."""
        try:
            return cls.model_validate({name: value for name, value in query.items() if value != ""})
        except ValidationError as error:
            where, why = first_error(error)
            raise Refused(400, f"{where}: {why}" if where else why, param=where or None) from None

    def socket_encoder(self, host: Host) -> StreamEncoder:
        """Raw sound alone. Raises Refused 400."""
        encoding = self.encoding or "linear16"
        if encoding not in _RAW:
            raise Refused(400, f"encoding: {encoding!r} is none of {', '.join(_RAW)}", param="encoding")
        return self._encoder(host, _RAW[encoding])

    def answer_encoder(self, host: Host) -> StreamEncoder:
        """What an HTTP request may ask for. Raises Refused 400."""
        encoding = self.encoding or "mp3"
        if encoding in _ENCODED:
            return self._encoder(host, encoding)
        if encoding not in _RAW:
            raise Refused(400, f"encoding: {encoding!r} is none of {', '.join((*_RAW, *_ENCODED))}", param="encoding")
        if (self.container or "wav") != "wav":
            return self._encoder(host, _RAW[encoding])
        if encoding != "linear16":
            raise Refused(
                400, f"container: wav holds linear16 here; ask for container=none with {encoding}", param="container"
            )
        return self._encoder(host, "wav")

    def settings(self, host: Host, encoder: StreamEncoder, speed: float | None = None) -> SessionUpdate:
        """The native settings. Raises Refused 400."""
        language = self.model.rpartition("-")[2].lower()  # aura-2-thalia-en
        try:
            return settings(
                host,
                encoder,
                voice=host.voice(self.model),
                speed=self.speed if speed is None else speed,
                language=_LANGUAGES.get(language),
            )
        except ValidationError as error:
            raise Refused(400, ": ".join(first_error(error))) from None

    def _encoder(self, host: Host, name: str) -> StreamEncoder:
        rate = self.sample_rate
        if rate is None and name in ("pcm", "wav"):
            rate = RATE_HZ
        if name == "opus":
            rate = None
        try:
            return host.encoder(SoundFormat(name, rate, self.bit_rate))
        except FormatRefused as error:
            raise Refused(400, str(error), param="encoding") from None


def errors(refused: Refused) -> tuple[str, str]:
    """A refusal before there is a socket."""
    return "application/json", json.dumps({"err_code": refused.code, "err_msg": refused.message, "request_id": ""})


def request_id(host: Host, opening_of: str) -> str:
    """Of a connection. Told apart by it in this server's logs, and nothing more."""
    return str(uuid5(NAMESPACE_URL, f"{opening_of}:{host.turn_prefix}"))


def read_object(message: str | bytes) -> Mapping[str, object]:
    """A message. Raises Refused 400."""
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"not JSON: {error}") from None
    if not isinstance(fields, Mapping):
        raise Refused(400, "a message is an object")
    return fields


def packed(kind: str, **fields: object) -> str:
    """A message to the client."""
    return json.dumps({"type": kind, **fields})

"""What the TwiML of a call asks for, in the `<Parameter>`s of its `<Stream>`.

Knows their names, values and defaults. Does not know sessions. Names that are not here are the application's own, and passed over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from protocol.commands import AudioInput, BargeIn, UplinkFormat
from protocol.config import MAX_APPEND_CHARS
from protocol.dialects.interface import Refused
from protocol.dialects.settings import first_error

_NUMBERS: Final = ("min_speech_ms", "resume_after_ms")


@dataclass(frozen=True, slots=True)
class Wishes:
    """Of one call."""

    session: (
        str | None
    )  # that it is a leg of: the id of a native client's, or the name of one below /s/; None: one of its own
    token: str | None  # a key of the server's, or a client secret
    text: str | None  # to be spoken when the call is there
    voice: str | None  # that speaks `text`
    sound: AudioInput  # the caller's, and what their speech does
    digits_cancel: bool  # whether a key ends the turn that speaks

    @classmethod
    def read(cls, parameters: Mapping[str, str]) -> Wishes:
        """Raises Refused for a value that is none."""
        given = {name: value.strip() for name, value in parameters.items() if value.strip()}
        text = given.get("text")
        if text is not None and len(text) > MAX_APPEND_CHARS:
            raise Refused(400, f"text has more than {MAX_APPEND_CHARS} characters", param="text")
        digits = given.get("dtmf", "tell")
        if digits not in ("tell", "cancel"):
            raise Refused(400, f"dtmf is {digits[:40]!r}, and should be tell or cancel", param="dtmf")
        return cls(
            given.get("session"), given.get("token"), text, given.get("voice"), _sound(given), digits == "cancel"
        )


def _sound(given: Mapping[str, str]) -> AudioInput:
    fields: dict[str, object] = {"barge_in": given.get("barge_in", BargeIn.CANCEL.value)}
    for name in _NUMBERS:
        if name in given:
            fields[name] = int(given[name]) if given[name].isdecimal() and len(given[name]) < 10 else given[name]
    try:
        return AudioInput.model_validate({"format": UplinkFormat.MULAW, "rate": 8_000, **fields})
    except ValidationError as error:
        where, why = first_error(error)
        raise Refused(400, f"{where}: {why}", param=where) from None

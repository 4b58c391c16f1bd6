"""ElevenLabs' text-to-dialogue, which its third and later models are spoken by: several voices in one text.

Knows how its messages differ from those of `multi-stream-input`: a context is registered with its voices, text comes as `inputs`, and
what is told is in snake_case. Voices are the speakers of one turn. Source: pipecat's and LiveKit's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from protocol.commands import SessionUpdate
from protocol.config import MAX_SPEAKERS
from protocol.dialects.elevenlabs import MultiStream
from protocol.dialects.elevenlabs_contexts import SNAKE, Context, Since, final, refusal
from protocol.dialects.elevenlabs_http import check_length, errors
from protocol.dialects.elevenlabs_request import VoiceSettings, Wishes, checked, read_object, speakable
from protocol.dialects.interface import Dialect, Host, Opening, Output, Refused, StreamEncoder
from protocol.dialects.oneshot import OneShot, Wanted

_SPOKEN: Final = VoiceSettings()  # a dialogue has no speed


class Input(BaseModel):
    """What one voice says."""

    model_config = ConfigDict(extra="ignore")

    text: str = Field(default="", repr=False)
    voice_id: str | None = None


class DialogueContext(Context):
    """Whose turn it is to speak."""

    def __init__(
        self, name: str | None, encoder: StreamEncoder, settings: SessionUpdate, voices: Sequence[str]
    ) -> None:
        """voices: of this context, at least one."""
        super().__init__(name, encoder, settings, _tokens(voices))
        self.marks = _Marks(voices)


class _Marks:
    """Puts a speaker's token before what another voice says."""

    def __init__(self, voices: Sequence[str]) -> None:
        self._voices = voices
        self._tokens = _tokens(voices)
        self._last: str | None = None  # that was put

    def text(self, inputs: Sequence[Input]) -> str:
        """One text of them."""
        parts: list[str] = []
        for each in inputs:
            if each.text and self._tokens:
                at = self._voices.index(each.voice_id) if each.voice_id in self._voices else 0
                if each.text.strip() and (token := self._tokens[at]) != self._last:
                    self._last = token
                    parts.append(token + each.text.lstrip())
                    continue
            parts.append(each.text)
        return " ".join(part for part in parts if part)


class DialogueStream(MultiStream):
    """`multi-stream-input` of text-to-dialogue. See `interface.Dialect`."""

    names = SNAKE

    def _since(self, opening: Opening) -> Since:
        """Both ask for `sync_alignment` here. pipecat adds up what messages span, and LiveKit, which always says how text is to be
        normalized, how long they sound.
        """
        return Since.SOUND if "apply_text_normalization" in opening.query else Since.TOLD

    @property
    def _one_at_a_time(self) -> bool:
        """Neither of them tells of an interruption once a context is closed."""
        return True

    @property
    def _cuts_unheard(self) -> bool:
        """Here a close speaks the rest, as its manual says; the next words end it, if nobody listens any more."""
        return False

    def _text(self, fields: Mapping[str, Any]) -> str:
        return "".join(each.text for each in _inputs(fields))

    def _about(self, name: str, fields: Mapping[str, Any], text: str, flush: bool, close: bool) -> Sequence[Output]:
        if isinstance(fields.get("voices"), list) and name not in self._open:
            try:
                self._new(name, fields)
            except Refused as refused:
                return [refusal(name, refused, self.names), final(name, self.names)]
        return super()._about(name, fields, text, flush, close)

    def _context(self, name: str | None, fields: Mapping[str, Any]) -> Context:
        voices = fields.get("voices") or [each.voice_id for each in _inputs(fields)]
        known = _voices(voice for voice in voices if isinstance(voice, str))
        encoder = self._wishes.encoder(self._host)
        settings = self._wishes.settings(self._host, encoder, known[0], _SPOKEN, voices=known if len(known) > 1 else ())
        return DialogueContext(name, encoder, settings, known)

    def _marked(self, context: Context, fields: Mapping[str, Any], text: str) -> str:
        assert isinstance(context, DialogueContext), "no other is made here"
        return context.marks.text(_inputs(fields))


class DialogueRequest(Wishes):
    """The body of `POST /v1/text-to-dialogue`; its output format is in the query."""

    inputs: list[Input] = Field(min_length=1, max_length=1000)


def dialogue(host: Host, opening: Opening) -> Dialect:
    """`POST /v1/text-to-dialogue` and `.../stream`. Raises Refused."""
    request = checked(DialogueRequest, {**read_object(opening.body), **opening.query})
    voices = _voices(each.voice_id for each in request.inputs if each.voice_id is not None)
    text = speakable(_Marks(voices).text(request.inputs))
    if not any(each.text.strip() for each in request.inputs):
        raise Refused(422, "inputs: there is no text", "empty_text", "inputs")
    check_length(host, text, "inputs")
    encoder = request.encoder(host)
    several = voices if len(voices) > 1 else ()
    return OneShot(
        host,
        Wanted(
            text=text,
            encoder=encoder,
            settings=lambda _: request.settings(host, encoder, voices[0], _SPOKEN, voices=several, aligned=False),
            errors=errors,
        ),
    )


def _inputs(fields: Mapping[str, Any]) -> list[Input]:
    """Those that are any."""
    inputs = fields.get("inputs")
    if not isinstance(inputs, list):
        return []
    return [
        Input(text=each["text"], voice_id=voice if isinstance(voice := each.get("voice_id"), str) else None)
        for each in inputs
        if isinstance(each, dict) and isinstance(each.get("text"), str)
    ]


def _voices(names: Iterable[str]) -> list[str]:
    """As many as there can be speakers; the rest speak as the first one. At least one, which may be no voice at all."""
    return list(dict.fromkeys(names))[:MAX_SPEAKERS] or [""]


def _tokens(voices: Sequence[str]) -> list[str]:
    """None for one speaker."""
    return [f"<|speaker:{at}|>" for at in range(len(voices))] if len(voices) > 1 else []

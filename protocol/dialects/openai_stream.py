"""Text in pieces over a WebSocket, `/v1/audio/speech/stream`, as self-hosted servers of this model offer it.

Knows the messages: `session.config`, `input.text`, `input.done`, `session.close`; `audio.start`, sound, `audio.done`, `session.done`.
Source: vLLM-Omni's manual, "Streaming Text Input". An utterance is one turn; speech begins while its text still comes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.commands import Command, SessionUpdate, TurnEnd
from protocol.dialects.interface import CloseSocket, Host, Opening, Output, PrepareVoice, Refused, StreamEncoder
from protocol.dialects.openai_request import SpeechRequest
from protocol.dialects.turns import Turns
from protocol.errors import ErrorCode
from protocol.events import ErrorEvent, Event, Status, TurnDone

PIECE_BYTES: Final = 512 * 1024  # the largest message that everybody takes is 1 MiB
_NO_TEXT: Final = "."  # `input` is not in a configuration; it comes in pieces


class _Utterance:
    """What is said up to one `input.done`."""

    def __init__(self, index: int, turn: str, encoder: StreamEncoder) -> None:
        self.index = index
        self.turn = turn
        self.encoder = encoder
        self.text: list[str] = []
        self.whole: list[bytes] | None = None  # sound that is sent in one piece at the end; None: as it comes
        self.bytes = 0
        self.started = False
        self.ended = False  # input.done came


class SpeechStream:
    """See `interface.Dialect`."""

    deadline = math.inf

    def __init__(self, host: Host, opening: Opening) -> None:
        self._host = host
        self._turns = Turns(host)
        self._request = SpeechRequest(input=_NO_TEXT)
        self._voice: str | None = None  # made of the references in the configuration
        self._streams_audio = False
        self._index = 0
        self._utterances: dict[str, _Utterance] = {}  # that are not over, by turn; the last may take text
        self._closing = False

    def opened(self, now: float) -> Sequence[Output]:
        """The client speaks first."""
        return ()

    def received(self, message: str | bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        try:
            fields = json.loads(message)
        except (ValueError, RecursionError) as error:
            return [_error(f"not JSON: {error}")]
        try:
            match fields:
                case {"type": "session.config"}:
                    return self._configure(fields)
                case {"type": "input.text", "text": str(text)}:
                    return self._text(text)
                case {"type": "input.done"}:
                    return self._done()
                case {"type": "session.close"}:
                    return self._close()
        except Refused as refused:
            return [_error(refused.message)]
        return [_error("no message of this kind: session.config, input.text, input.done, session.close")]

    def event(self, event: Event, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        self._turns.event(event)
        match event:
            case TurnDone() if event.turn in self._utterances:
                return self._spoken(self._utterances.pop(event.turn), event)
            case ErrorEvent(code=ErrorCode.UNKNOWN_TURN) if event.turn in self._utterances:
                del self._utterances[event.turn]  # it could not be opened at all, as was told
            case ErrorEvent():
                return [_error(event.message), *self._turns.cancel(self._turns.speaking, "failed")]
        return ()

    def audio(self, turn: str, payload: bytes, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        utterance = self._utterances.get(turn)
        return self._sound(utterance, utterance.encoder.push(payload)) if utterance is not None else ()

    def disconnected(self, now: float) -> Sequence[Command]:
        """The client is gone: so is its listener."""
        return self._turns.cancel(self._turns.heard, "disconnected")

    def tick(self, now: float) -> Sequence[Output]:
        """Nothing is ever due."""
        return ()

    @property
    def _open(self) -> _Utterance | None:
        last = next(reversed(self._utterances.values()), None)
        return last if last is not None and not last.ended else None

    def _configure(self, fields: Mapping[str, object]) -> Sequence[Output]:
        if self._open is not None:
            raise Refused(400, "session.config: end the text that came with input.done before")
        given = {name: value for name, value in fields.items() if name != "type"}
        request = SpeechRequest.read({**given, "input": _NO_TEXT})
        request.settings(self._host, request.encoder(self._host), None)  # refused now, not with the text
        recordings = request.recordings()
        self._streams_audio = given.get("stream_audio") is True

        def take(voice: str | None) -> Sequence[Output]:
            self._request, self._voice = request, voice
            return ()

        if recordings:
            return [PrepareVoice(recordings, take, lambda refused: [_error(refused.message)])]
        return take(None)

    def _text(self, text: str) -> Sequence[Output]:
        outputs: list[Output] = []
        utterance = self._open
        if utterance is None:
            if not text.strip():
                return ()
            encoder = self._request.encoder(self._host)
            utterance = _Utterance(self._index, self._turns.new(), encoder)
            utterance.whole = None if self._streams_audio else []
            self._index += 1
            self._utterances[utterance.turn] = utterance
            outputs.append(self._settings(encoder))
            text = self._request.text.removesuffix(_NO_TEXT) + text
        utterance.text.append(text)
        if self._turns.chars(utterance.turn) + len(text) > self._host.limits.turn_chars:
            raise Refused(400, f"input.text: more than {self._host.limits.turn_chars} characters before input.done")
        return [*outputs, *self._turns.say(utterance.turn, text)]

    def _settings(self, encoder: StreamEncoder) -> SessionUpdate:
        return self._request.settings(self._host, encoder, self._voice)

    def _done(self) -> Sequence[Output]:
        utterance = self._open
        if utterance is None:  # nothing was said
            self._index += 1
            return [_packed("session.done", utterance_index=self._index - 1, total_sentences=0)]
        utterance.ended = True
        return [TurnEnd(turn=utterance.turn)]

    def _close(self) -> Sequence[Output]:
        self._closing = True
        outputs = list(self._done()) if self._open is not None else []
        return [*outputs, *([] if self._utterances else [CloseSocket()])]

    def _sound(self, utterance: _Utterance, data: bytes) -> list[Output]:
        if not data:
            return []
        outputs: list[Output] = [] if utterance.started else [self._start(utterance)]
        utterance.started = True
        utterance.bytes += len(data)
        if utterance.whole is None:
            return [*outputs, data]
        utterance.whole.append(data)
        return outputs

    def _start(self, utterance: _Utterance) -> Output:
        return _packed(
            "audio.start",
            utterance_index=utterance.index,
            sentence_index=0,
            sentence_text="".join(utterance.text),
            format=self._request.format,
            sample_rate=utterance.encoder.rate,
        )

    def _spoken(self, utterance: _Utterance, done: TurnDone) -> Sequence[Output]:
        outputs = self._sound(utterance, utterance.encoder.finish(done.audio_ms))
        whole = b"".join(utterance.whole or [])
        outputs += [whole[at : at + PIECE_BYTES] for at in range(0, len(whole), PIECE_BYTES)]
        place = {"utterance_index": utterance.index, "sentence_index": 0}
        failed = done.status is not Status.COMPLETED
        if utterance.started or failed:
            outputs.append(_packed("audio.done", **place, total_bytes=utterance.bytes, error=failed))
        sentences = 1 if utterance.started else 0
        outputs.append(_packed("session.done", utterance_index=utterance.index, total_sentences=sentences))
        return [*outputs, *([CloseSocket()] if self._closing and not self._utterances else [])]


def _packed(kind: str, **fields: object) -> str:
    return json.dumps({"type": kind, **fields})


def _error(why: str) -> str:
    return _packed("error", message=why)

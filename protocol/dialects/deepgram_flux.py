"""Deepgram's second speech socket, `/v2/speak`: turns with a name, and interruptions that say what was heard.

Knows its messages as the deepgram SDK, pipecat and LiveKit send and read them. Source: those clients' code. `SpeechMetadata` behind the
last sound is how clients know that a turn is over. A playback offset counts from the start of the connection: what every turn before has
played, and where one was interrupted, what had been played then.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Final

from protocol.commands import Command, ContextTruncate, TurnCancel
from protocol.config import MAX_MS, MAX_SPEED, MIN_SPEED
from protocol.dialects.deepgram_markup import Markup
from protocol.dialects.deepgram_request import packed, request_id
from protocol.dialects.deepgram_socket import Socket
from protocol.dialects.interface import CloseSocket, Host, Opening, Output, Refused
from protocol.dialects.speeches import Speech
from protocol.events import ContextUpdated, ErrorEvent, Event, Heard, Status, TurnDone, TurnStarted

_NO_CONTROLS: Final = {"pronunciations_applied": 0, "breaks_applied": 0, "pronunciation_warnings": 0}


ANSWER_S: Final = 0.25  # an Interrupt is answered by then, whatever is known


class _Interrupted:
    """What an Interrupt waits for: every native turn that it cut says what was heard of it."""

    def __init__(self, turn: Speech, native: Sequence[str], offset_ms: int | None, now: float) -> None:
        """native: oldest first."""
        self.turn = turn
        self.native = tuple(native)
        self.missing = set(native)
        self.offset_ms = offset_ms
        self.heard: dict[str, Heard] = {}
        self.answer_by = now + ANSWER_S


class FluxSocket(Socket):
    """See `interface.Dialect`."""

    def __init__(self, host: Host, opening: Opening) -> None:
        """Raises Refused."""
        super().__init__(host, opening)
        self._count = 0
        self._total_ms = 0  # on the client's clock: sound of native turns that are done
        self._starts_ms: dict[str, int] = {}  # native turns, on that clock
        self._interrupted_ms = 0  # where the last Interrupt was
        self._interrupted: _Interrupted | None = None
        self._last: tuple[Speech, str] | None = None  # and the native turn that was done last
        self._chars = 0  # of turns that are over

    @property
    def deadline(self) -> float:
        """See `Dialect`."""
        return self._interrupted.answer_by if self._interrupted is not None else super().deadline

    def tick(self, now: float) -> Sequence[Output]:
        """See `Dialect`."""
        if self._interrupted is not None and now >= self._interrupted.answer_by:
            return self._told(self._answer(self._interrupted), now)
        return super().tick(now)

    def _greeting(self) -> str:
        identity = request_id(self._host, "/v2/speak")
        name = self._host.model_name
        return packed("Connected", request_id=identity, model_name=name, model_version="1", model_uuids=[identity])

    def _patience(self) -> str:
        """Once more means nothing to any."""
        return _started(self._turns[0])

    def _refusal(self, refused: Refused) -> str:
        return packed("Error", code="MESSAGE-0000", description=refused.message)

    def _do(self, fields: Mapping[str, object], now: float) -> Sequence[Output]:
        match fields:
            case {"type": "Flush"}:
                return self._flush()
            case {"type": "Interrupt"}:
                return self._interrupt(fields.get("playback_offset"), now)
            case {"type": "Configure"}:
                return [self._configure(fields.get("speed"))]
            case {"type": "Close"}:
                return self._close()
        raise Refused(400, f"no message {fields.get('type')!r}: Speak, Flush, Interrupt, Configure, Close")

    def _happened(self, event: Event) -> Sequence[Output]:
        turn = self._speeches.event(event)
        outputs: list[Output] = []
        match event:
            case TurnStarted():
                self._starts_ms[event.turn] = self._total_ms
            case TurnDone() if turn is not None:
                self._total_ms += event.sent_ms
                self._last = (turn, event.turn)
                if event.status is not Status.COMPLETED:
                    outputs = self._fail(turn, f"the turn was {event.status.value}: {event.reason or 'failed'}")
                else:
                    outputs = self._finished()
            case ErrorEvent() if turn is not None:
                outputs = self._fail(turn, event.message)
        return [*self._note_heard(event), *outputs]

    def _begin(self) -> tuple[Speech, list[Output]]:
        self._count += 1
        known = f"{self._host.turn_prefix}{self._count}".encode()
        turn = Speech("dg_sp_" + hashlib.sha256(known).hexdigest()[:12], self._encoder, self._settings)
        return turn, [_started(turn)] if self._interrupted is None else []  # else behind its answer

    def _flush(self) -> list[Output]:
        turn = self._open
        if turn is None:
            return [_warning("NO_ACTIVE_SPEECH", "there is no turn to flush")]
        return [packed("Flushed", speech_id=turn.name), *self._end(turn), *self._finished()]

    def _configure(self, speed: object) -> str:
        if speed is None:
            return packed("ConfigureSuccess", applied={})
        if isinstance(speed, bool) or not isinstance(speed, int | float) or not MIN_SPEED <= speed <= MAX_SPEED:
            why = f"speed is a number from {MIN_SPEED:g} to {MAX_SPEED:g}"
            value = {"value": speed} if isinstance(speed, int | float) and math.isfinite(speed) else {}
            return packed("ConfigureFailure", code="SPEED_OUT_OF_RANGE", field="speed", **value, description=why)
        self._request = self._request.model_copy(update={"speed": float(speed)})
        self._settings = self._request.settings(self._host, self._encoder)
        return packed("ConfigureSuccess", applied={"speed": speed})

    def _interrupt(self, offset: object, now: float) -> list[Output]:
        cut = list(dict.fromkeys([*self._speeches.heard, *self._turns]))
        if not cut and self._last is None:
            return [_warning("NO_ACTIVE_SPEECH", "there is no turn to interrupt")]
        if self._interrupted is not None:
            return [_warning("INTERRUPT_IN_PROGRESS", "the last Interrupt is not answered yet")]
        offset_ms = _offset_ms(offset)
        if offset_ms is not None and offset_ms < self._interrupted_ms:
            why = f"playback_offset {offset_ms} is before the last Interrupt, at {self._interrupted_ms} ms"
            return [_warning("INVALID_INTERRUPT_OFFSET", why)]
        if not cut:
            return self._interrupt_last(offset_ms, now)
        native = list(self._speeches.turns.heard)
        self._turns.clear()
        self._markup = Markup()
        self._chars += sum(turn.chars for turn in cut if not turn.over)
        commands: list[Output] = []
        for command in self._speeches.cut(cut, "barge_in"):
            commands.append(command if offset_ms is None else self._played(command, offset_ms))
        self._interrupted = _Interrupted(cut[0], native, offset_ms, now)
        return [*commands, *([] if native else self._answer(self._interrupted))]

    def _interrupt_last(self, offset_ms: int | None, now: float) -> list[Output]:
        """All was sent, and the server does not know whether it was played: only a client that does can still interrupt."""
        assert self._last is not None
        turn, native = self._last
        if offset_ms is None or offset_ms >= self._total_ms:
            return [_warning("NO_ACTIVE_SPEECH", "there is no turn to interrupt")]
        self._interrupted = _Interrupted(turn, [native], offset_ms, now)
        played_ms = max(0, offset_ms - self._starts_ms.get(native, 0))
        return [ContextTruncate(turn=native, played_ms=min(played_ms, MAX_MS))]

    def _played(self, command: Command, offset_ms: int) -> Command:
        assert isinstance(command, TurnCancel) and command.turn is not None
        starts_ms = self._starts_ms.get(command.turn)
        played_ms = 0 if starts_ms is None else max(0, offset_ms - starts_ms)
        return command.model_copy(update={"played_ms": min(played_ms, MAX_MS)})

    def _note_heard(self, event: Event) -> list[Output]:
        """What was heard of a turn that was cut: it says so when it ends, or, if it had ended, in a word of its own."""
        waits = self._interrupted
        if waits is None:
            return []
        match event:
            case TurnDone() if event.turn in waits.missing:
                waits.heard[event.turn] = event.heard
                if event.status is not Status.COMPLETED:
                    waits.missing.discard(event.turn)
            case ContextUpdated(turn=str(turn), heard=Heard() as heard) if turn in waits.missing:
                waits.heard[turn] = heard
                waits.missing.discard(turn)
            case ErrorEvent(turn=str(turn)):
                waits.missing.discard(turn)
        return [] if waits.missing else self._answer(waits)

    def _answer(self, waits: _Interrupted) -> list[Output]:
        self._interrupted = self._last = None
        heard = [waits.heard[turn] for turn in waits.native if turn in waits.heard]
        played_ms = waits.offset_ms
        if played_ms is None:
            starts_ms = next(
                (self._starts_ms[turn] for turn in waits.native if turn in self._starts_ms), self._total_ms
            )
            played_ms = max(self._interrupted_ms, starts_ms + sum(each.ms for each in heard))
        self._total_ms = self._interrupted_ms = played_ms
        self._starts_ms.clear()
        told = packed(
            "SpeechInterrupted",
            audio_played_ms=played_ms,
            text_spoken="".join(each.text for each in heard),
            text_remaining="".join(each.remaining for each in heard),
            metadata=_metadata(waits.turn),
        )
        return [told, *map(_started, self._turns), *self._finished()]

    def _close(self) -> list[Output]:
        self._closing = True
        turn = self._open
        return [*(self._end(turn) if turn is not None else []), *self._finished()]

    def _finished(self) -> list[Output]:
        outputs: list[Output] = []
        while self._turns and self._turns[0].finished:
            turn = self._turns.pop(0)
            turn.over = True
            self._chars += turn.chars
            if not turn.audio_ms:
                outputs.append(_warning("NO_SYNTHESIZABLE_TEXT", "there was nothing to speak in the turn's text"))
            outputs.append(packed("SpeechMetadata", **_metadata(turn)))
        if self._closing and not self._turns and self._interrupted is None:
            totals = {"total_audio_duration_ms": self._total_ms, "total_input_character_count": self._chars}
            outputs.append(packed("SessionMetadata", **totals, total_billable_character_count=self._chars))
            outputs.append(CloseSocket())
        return outputs

    def _fail(self, turn: Speech, why: str) -> list[Output]:
        """The client is told, and the turn is over as if it had been spoken: nobody has to wait for it."""
        self._chars += turn.chars
        told = packed("Error", code="NET-0000", description=why)
        return [*self._cut(turn), told, packed("SpeechMetadata", **_metadata(turn)), *self._finished()]


def _metadata(turn: Speech) -> dict[str, object]:
    return {
        "speech_id": turn.name,
        "audio_duration_ms": turn.audio_ms,
        "input_character_count": turn.chars,
        "billable_character_count": turn.chars,
        "controls_applied": _NO_CONTROLS,
    }


def _started(turn: Speech) -> str:
    return packed("SpeechStarted", speech_id=turn.name)


def _warning(code: str, why: str) -> str:
    return packed("Warning", code=code, description=why)


def _offset_ms(offset: object) -> int | None:
    """`{"type": "time_ms", "value": 1234}`. Raises Refused."""
    if offset is None:
        return None
    value = offset.get("value") if isinstance(offset, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise Refused(400, 'playback_offset is {"type": "time_ms", "value": a number of ms}')
    return int(value)

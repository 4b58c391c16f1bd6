"""Twilio Media Streams, of which we are the server: a phone call as JSON messages, sound in both directions as mu-law at 8 kHz.

Knows Twilio's messages, what of our speech waits in its buffer, and how its marks tell what was heard. Does not know sessions: it says what
the caller did, and is told what the session's turns do. It is no `interface.Dialect`, which speaks its own turns: a call is a leg of a
session, and hears all of them. Source: Twilio's documentation, and what its service was seen to send.

A mark comes back when the sound before it was played, or when the buffer was cleared: what comes back of those that a `clear` found
outstanding says nothing.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from protocol.dialects.interface import CloseSocket
from protocol.events import ContextUpdated, Event, Status, TurnDone, TurnPaused, TurnResumed

RATE_HZ: Final = 8_000
MEDIA_TYPE: Final = "audio/x-mulaw"
UNIT_BYTES: Final = 160  # a payload is a multiple of 20 ms
MARK_MS: Final = 200  # between marks: so exactly is known what was heard
SILENCE: Final = b"\xff"  # a mu-law zero
DIGITS: Final = frozenset("0123456789*#ABCD")
PATIENCE_S: Final = 1.0  # beyond the length of what waits, for the marks behind it
UNREADABLE: Final = 1007  # close codes of RFC 6455
UNACCEPTABLE: Final = 1003


@dataclass(frozen=True, slots=True)
class Started:
    """The call is there."""

    stream: str  # Twilio's ids
    call: str
    parameters: Mapping[str, str]  # as the TwiML gave them


@dataclass(frozen=True, slots=True)
class Sound:
    """The caller was heard: mu-law at 8 kHz."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Digit:
    """The caller pressed a key."""

    digit: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a turn the caller has heard."""

    turn: str
    ms: int | None  # that it came to now; None: nothing is new
    at_most_ms: int | None  # the place that it has not come to, until the next of these; None: none is known


@dataclass(frozen=True, slots=True)
class HungUp:
    """The call is over."""


Done = str | Started | Sound | Digit | Progress | HungUp | CloseSocket
"""What comes of a message: str is written to Twilio, CloseSocket ends the connection, the rest is for the session."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some sound of a turn."""

    turn: str
    start: int  # samples of the turn before it
    payload: bytes
    last: bool  # the turn ends with it

    @property
    def end(self) -> int:
        return self.start + len(self.payload)


@dataclass(slots=True)
class _Mark:
    """One that has not come back."""

    name: str
    turn: str
    at_ms: int
    void: bool = False  # a clear found it outstanding


class MediaStream:
    """One call. Hand in what comes; call `settle` once there is nothing more to hand in for now."""

    def __init__(self) -> None:
        self._stream: str | None = None  # Twilio's id; None: it has not started
        self._sent: deque[_Piece] = deque()  # and not known to be heard
        self._marks: deque[_Mark] = deque()  # that have not come back, as they were sent
        self._unmarked = 0  # samples since the last mark
        self._ends: dict[str, int] = {}  # samples of each turn that were sent or held, while it lives
        self._paused: str | None = None  # the turn that is
        self._held: list[_Piece] = []  # what its pause keeps back
        self._stale = False  # Twilio holds sound that nobody is to hear
        self._closing: CloseSocket | None = None  # once all was heard
        self._close_at = math.inf

    @property
    def deadline(self) -> float:
        """When `tick` is due; infinity: never."""
        return self._close_at

    def received(self, message: str, now: float) -> Sequence[Done]:
        """A message of Twilio's. What it does not send, or only tells, is passed over."""
        try:
            fields = json.loads(message)
        except (ValueError, RecursionError):
            return [HungUp(), CloseSocket(UNREADABLE, "no JSON")]
        match fields:
            case {"event": "media", "media": {"payload": str(payload), **media}}:
                return self._heard(payload, media.get("track"))
            case {"event": "mark", "mark": {"name": str(name)}}:
                return self._echo(name)
            case {"event": "dtmf", "dtmf": {"digit": str(digit)}}:
                return [Digit(digit)] if self._stream is not None and digit in DIGITS else ()
            case {"event": "start", "start": dict(start)} if self._stream is None:
                return self._start(start)
            case {"event": "stop"}:
                return [HungUp(), CloseSocket()]
        return ()

    def audio(self, turn: str, position: int, payload: bytes, last: bool) -> Sequence[Done]:
        """The next packet of a turn. position: of its first sample."""
        settled = self.settle()
        end = position + len(payload)
        if end <= self._ends.get(turn, 0) and not (last and not payload):
            return settled  # a pause has kept it, and the session sends it again
        self._ends[turn] = end
        piece = _Piece(turn, position, payload, last)
        if self._paused is not None:
            self._held.append(piece)
            return settled
        return [*settled, *self._write(piece)]

    def event(self, event: Event) -> Sequence[Done]:
        """Something happened to a turn."""
        match event:
            case TurnDone(status=Status.CANCELLED) | ContextUpdated(turn=str()):
                self._drop(event.turn or "")
            case TurnDone():
                done = self._mark(event.turn) if event.status is Status.FAILED and self._unmarked else []
                self._ends.pop(event.turn, None)
                return done
            case TurnPaused() if self._paused is None:
                self._paused, self._held = event.turn, list(self._sent)
                self._stale = self._stale or bool(self._held)
                self._sent.clear()
            case TurnResumed() if self._paused is not None:
                return [*self.settle(), *self._go_on(event.turn, event.at_ms)]
        return ()

    def settle(self) -> Sequence[Done]:
        """Clear Twilio's buffer if there is something in it that nobody is to hear; what else was in it is sent again."""
        if not self._stale:
            return ()
        self._stale = False
        for mark in self._marks:
            mark.void = True
        again, self._sent, self._unmarked = list(self._sent), deque(), 0
        return [self._message("clear"), *(done for piece in again for done in self._write(piece))]

    def finish(self, end: CloseSocket, now: float) -> Sequence[Done]:
        """The session is over: close as soon as the caller has heard what was sent."""
        settled = list(self.settle())
        if not self._outstanding:
            return [*settled, end]
        self._closing = end
        self._close_at = now + sum(len(piece.payload) for piece in self._sent) / RATE_HZ + PATIENCE_S
        return settled

    def tick(self, now: float) -> Sequence[Done]:
        """The marks have not come back in time."""
        if self._closing is None or now < self._close_at:
            return ()
        self._close_at = math.inf
        return [self._closing]

    @property
    def _outstanding(self) -> list[_Mark]:
        return [mark for mark in self._marks if not mark.void]

    def _start(self, start: dict[str, Any]) -> Sequence[Done]:
        match start:
            case {"streamSid": str(stream), "mediaFormat": {"encoding": str(encoding), "sampleRate": rate}}:
                if encoding != MEDIA_TYPE or rate not in (RATE_HZ, str(RATE_HZ)):
                    return [HungUp(), CloseSocket(UNACCEPTABLE, f"mediaFormat is not {MEDIA_TYPE} at {RATE_HZ} Hz")]
            case _:
                return [HungUp(), CloseSocket(UNREADABLE, "start has no streamSid or no mediaFormat")]
        self._stream = stream
        given = start.get("customParameters")
        parameters = {str(k): _text(v) for k, v in given.items()} if isinstance(given, dict) else {}
        return [Started(stream, _text(start.get("callSid") or stream or "unknown"), parameters)]

    def _heard(self, payload: str, track: object) -> Sequence[Done]:
        if self._stream is None or track not in (None, "inbound"):  # the other track is our own voice
            return ()
        try:
            sound = base64.b64decode(payload, validate=True)
        except (binascii.Error, ValueError):
            return [HungUp(), CloseSocket(UNREADABLE, "media.payload is no base64")]
        return [Sound(sound)]

    def _echo(self, name: str) -> Sequence[Done]:
        """Marks come back in order; one that is missing was lost."""
        if all(mark.name != name for mark in self._marks):
            return ()
        mark = self._marks.popleft()
        while mark.name != name:
            mark = self._marks.popleft()
        if mark.void:
            return ()
        at = mark.at_ms * RATE_HZ // 1000
        heard = [piece.turn == mark.turn and piece.start < at for piece in self._sent]
        while any(heard):
            heard.pop(0)
            self._sent.popleft()
        next_ms = next((known.at_ms for known in self._outstanding if known.turn == mark.turn), None)
        done: list[Done] = [Progress(mark.turn, mark.at_ms, next_ms)]
        if self._closing is not None and not self._outstanding:
            self._close_at = math.inf
            done.append(self._closing)
        return done

    def _write(self, piece: _Piece) -> list[Done]:
        self._sent.append(piece)
        self._unmarked += len(piece.payload)
        done: list[Done] = []
        if piece.payload:
            whole = piece.payload + SILENCE * (-len(piece.payload) % UNIT_BYTES)
            done.append(self._message("media", {"payload": base64.b64encode(whole).decode()}))
        if piece.last or self._unmarked * 1000 >= MARK_MS * RATE_HZ:
            done += self._mark(piece.turn)
        return done

    def _mark(self, turn: str) -> list[Done]:
        """Have Twilio tell when it has played what was sent so far, which ends with sound of this turn."""
        if not self._sent or self._sent[-1].turn != turn:
            return []
        self._unmarked = 0
        at_ms = self._sent[-1].end * 1000 // RATE_HZ
        first = all(mark.turn != turn for mark in self._outstanding)
        self._marks.append(_Mark(f"{turn}:{at_ms}", turn, at_ms))
        done: list[Done] = [self._message("mark", {"name": f"{turn}:{at_ms}"})]
        return [*done, Progress(turn, None, at_ms)] if first else done

    def _drop(self, turn: str) -> None:
        """Nobody is to hear more of it."""
        self._ends.pop(turn, None)
        kept = deque(piece for piece in self._sent if piece.turn != turn)
        self._stale = self._stale or len(kept) < len(self._sent)
        self._sent = kept
        self._held = [piece for piece in self._held if piece.turn != turn]
        if turn == self._paused:  # those behind it go on, and `settle` sends them
            self._stale = self._stale or bool(self._held)
            self._sent.extend(self._held)
            self._paused, self._held = None, []

    def _go_on(self, turn: str, at_ms: int) -> list[Done]:
        """Send what the pause kept back, from where the session goes on."""
        held, self._paused, self._held = self._held, None, []
        at = at_ms * RATE_HZ // 1000
        ours = [piece for piece in held if piece.turn == turn]
        if ours and at < ours[0].start:  # the session sends it again, from before what is here
            self._ends[turn] = at
            held = [piece for piece in held if piece.turn != turn]
        else:
            held = [piece for piece in held if piece.turn != turn or piece.end > at]
        return [done for piece in held for done in self._write(piece)]

    def _message(self, event: str, body: Mapping[str, str] | None = None) -> str:
        fields: dict[str, object] = {"event": event, "streamSid": self._stream}
        if body is not None:
            fields[event] = body
        return json.dumps(fields, separators=(",", ":"))


def _text(value: object) -> str:
    """Without halves of characters, which JSON may hold and nothing else can."""
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")

"""A session with all around it but sockets and waiting: tones for an engine, a clock that moves when told, a listener who notes everything.

What is written is checked as it comes: nothing of a turn after its turn.done, positions without gaps, turn.started before the first
audio, the first and last flags. Unrealistic: an engine's step takes exactly `step_s`, the socket takes everything at once or (`writable`
False) nothing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeVar

from engine.api import EngineError
from protocol.audio_frame import AudioFrame, Flag, unpack
from protocol.config import Limits
from protocol.connection import decode_event, encode_event
from protocol.messages import (
    Command,
    ContextUpdated,
    Event,
    MarkEvent,
    TurnDone,
    TurnPaused,
    TurnPlayed,
    TurnResumed,
    TurnStarted,
    parse_command,
)
from realtime.outbox import Close, Outbox
from realtime.scripted import Script, ScriptedEngine
from realtime.session import Session
from realtime.speech import Speech
from realtime.turn import Turn
from realtime.voices import VoiceStore

START = 1000.0  # of the clock: not 0, so that a forgotten `now` shows
PCM = {"audio": {"output": {"format": "pcm_s16le", "rate": 24000}}}
EventT = TypeVar("EventT")


class Stage:
    """Send commands with `send`, let time pass with `run`, look at `written`."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        step_s: float = 0.01,
        limits: Limits | None = None,
        voices: Path | None = None,
        admission_timeout_s: float = 5.0,
        engine: ScriptedEngine | None = None,
        session_id: str = "s-1",
    ) -> None:
        self.now = START
        self.engine = engine or ScriptedEngine(script)
        self.step_s = step_s
        self.writable = True
        self.written: list[Event | AudioFrame | Close] = []  # in order
        self.written_at: list[float] = []
        self._streams: list[tuple[Turn, Speech, list[float]]] = []  # with the time from which the next step may be made
        self._ends: dict[int, int] = {}  # turn number -> position behind its last audio
        self._last: set[int] = set()  # turns whose last flag came
        self._done: dict[int, TurnDone] = {}
        self._started: set[int] = set()
        self._played: set[str] = set()
        self._paused: str | None = None
        self._marks: dict[tuple[str, str], list[str]] = {}
        self.outbox = Outbox(lambda: None)
        self.session = Session(
            session_id,
            self.engine,
            VoiceStore(voices, self.engine.info.codebooks),
            limits or Limits(),
            admission_timeout_s,
            self.outbox,
            lambda turn, speech: self._streams.append((turn, speech, [0.0])),
            self.now,
        )
        self.outbox.event(encode_event(self.session.created(0, self.now)))
        self.configure(**PCM)

    def send(self, kind: str, **fields: Any) -> None:
        """One command, as a client would write it, and what follows from it at once."""
        self.handle(parse_command({"type": kind, **fields}))

    def handle(self, command: Command) -> None:
        """One parsed command."""
        self.session.handle(command, self.now)
        self.write()

    def configure(self, **fields: Any) -> None:
        """A session.update."""
        self.send("session.update", **fields)

    def say(self, text: str, turn: str | None = None) -> None:
        """A whole turn."""
        which = {} if turn is None else {"turn": turn}
        self.send("text.append", text=text, **which)
        self.send("turn.end", **which)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        end = self.now + seconds
        for _ in range(200_000):
            self.write()
            if not self._step_streams():
                due = min(self._next_step(), self.session.deadline(self.now) if not self.session.closed else math.inf)
                if due > end:
                    self.now = end
                    return
                self.now = max(self.now, due)
                if not self.session.closed and self.now >= self.session.deadline(self.now):
                    self.session.tick(self.now)
        raise AssertionError("the session keeps asking to be called")

    def run_until_done(self, turn: str | None = None, seconds: float = 60.0) -> TurnDone:
        """Let time pass until the turn (the newest done one, if None) is over."""
        end = self.now + seconds
        while not (done := [event for event in self.all(TurnDone) if turn in (None, event.turn)]):
            assert self.now < end, f"turn {turn} is not done"
            self.run(0.02)
        return done[-1]

    def write(self) -> None:
        """What the socket's writer does."""
        while self.writable and (item := self.outbox.take(self.now)) is not None:
            message: Event | AudioFrame | Close | None = item if isinstance(item, Close) else None
            if isinstance(item, str):
                message = decode_event(item)
            elif isinstance(item, bytes):
                message = unpack(item)
            assert message is not None, f"unknown event {item!r}"
            self._check(message)
            self.written.append(message)
            self.written_at.append(self.now)
            self.session.on_written(self.now)

    def lose_socket(self) -> None:
        """What happens around a session whose socket is gone."""
        self.session.detach(self.now)
        self.outbox.detach(self.now)
        self.writable = False

    def find_socket(self) -> None:
        """And when there is one again."""
        self.session.attach(self.now)
        self.outbox.attached = self.writable = True
        self.session.tick(self.now)
        self.write()

    def all(self, kind: type[EventT]) -> list[EventT]:
        """Everything of a kind that was written."""
        return [message for message in self.written if isinstance(message, kind)]

    def one(self, kind: type[EventT]) -> EventT:
        """The only one of its kind; forgets it."""
        (message,) = self.all(kind)
        self.written_at = [at for at, seen in zip(self.written_at, self.written, strict=True) if seen is not message]
        self.written = [seen for seen in self.written if seen is not message]
        return message

    def audio(self, n: int) -> bytes:
        """All samples of a turn that were written."""
        return b"".join(frame.payload for frame in self.all(AudioFrame) if frame.n == n)

    def sent_ms(self, n: int) -> float:
        """How much of a turn was written."""
        return len(self.audio(n)) / 2 / 24

    def _step_streams(self) -> bool:
        """Whatever the engine can do now. True: it did something."""
        stepped = False
        for entry in list(self._streams):
            turn, speech, next_at = entry
            stream = speech.stream
            if self.now < next_at[0]:
                continue
            try:
                event = stream.step()  # type: ignore[attr-defined]
            except EngineError as error:
                self._streams.remove(entry)
                self.session.on_error(turn, speech, error, self.now)
                stepped = True
                continue
            if event is not None:
                next_at[0] = self.now + self.step_s
                self.session.on_event(turn, speech, event, self.now)
                stepped = True
            elif stream.ended:  # type: ignore[attr-defined]
                self._streams.remove(entry)
                self.session.on_end(turn, speech, self.now)
                stepped = True
        return stepped

    def _next_step(self) -> float:
        return min((next_at[0] for _, _, next_at in self._streams if next_at[0] > self.now), default=math.inf)

    def _check(self, message: Event | AudioFrame | Close) -> None:
        """What must hold of everything that a client ever receives."""
        if isinstance(message, TurnStarted):
            assert message.n not in self._started, "a turn starts once"
            self._started.add(message.n)
        elif isinstance(message, TurnPlayed):
            assert message.turn not in self._played, "a turn is played to its end once"
            assert any(done.turn == message.turn for done in self._done.values()), "played before it was done"
            self._played.add(message.turn)
        elif isinstance(message, MarkEvent):
            told = self._marks.setdefault((message.turn, message.name), [])
            assert message.state not in told and not {"played", "dropped"} & set(told), "a mark has one end"
            assert message.state != "played" or told == ["generated"], "what is played was generated"
            told.append(str(message.state))
        elif isinstance(message, TurnPaused):
            self._paused = message.turn
        elif isinstance(message, TurnResumed):
            assert message.turn == self._paused, "what is resumed was paused"
            self._paused = None
        elif isinstance(message, ContextUpdated):
            self._paused = None if message.turn == self._paused else self._paused
        elif isinstance(message, TurnDone):
            self._paused = None if message.turn == self._paused else self._paused
            assert message.n not in self._done, "a turn ends once"
            self._done[message.n] = message
            heard = message.heard
            assert heard.char_end == len(heard.text)
            assert 0 <= heard.ms <= message.sent_ms <= message.audio_ms
            assert (message.status == "completed" and message.audio_ms > 0) <= (message.n in self._last)
        elif isinstance(message, AudioFrame):
            n = message.n
            assert self._paused is None, "silence while a turn is paused"
            assert n not in self._done, f"audio of turn {n} after its turn.done"
            assert n in self._started, "audio before turn.started"
            if message.flags & Flag.DISCONTINUITY:
                assert message.position <= self._ends[n], "what is sent again was sent before"
                self._last.discard(n)
                self._ends[n] = message.position
            assert n not in self._last, "audio after the last of its turn"
            assert (n not in self._ends) == bool(message.flags & Flag.FIRST), "the first flag is the first message's"
            assert message.position == self._ends.get(n, 0), "positions have no gap"
            self._ends[n] = message.position + len(message.payload) // 2
            if message.flags & Flag.LAST:
                self._last.add(n)


def words(count: int) -> str:
    """Text of so many words, one sentence."""
    return " ".join(f"word{index}" for index in range(count)) + "."


def history(stage: Stage) -> list[str]:
    """The heard texts that the newest stream was given."""
    return [segment.text for segment in stage.engine.opened[-1].conversation.history]


def remembered(stage: Stage) -> str:
    """The same as one text, spaces aside: the engine gets a segment without those at its ends."""
    return squeezed("".join(history(stage)))


def squeezed(text: str) -> str:
    return text.replace(" ", "")

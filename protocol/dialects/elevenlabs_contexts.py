"""A context of ElevenLabs' sockets: text that becomes one stream of sound, with the times of its characters, and an end.

Knows turns, audio and alignment of any number of contexts. Does not know what a client's messages look like, nor when a context ends.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from protocol.commands import SessionUpdate, TextFlush, TurnEnd
from protocol.config import Format
from protocol.dialects.elevenlabs_letters import Letter, Letters, Spelling
from protocol.dialects.elevenlabs_markup import Markup
from protocol.dialects.interface import Host, Output, Refused, StreamEncoder
from protocol.dialects.turns import Turns
from protocol.dialects.wording import Wording
from protocol.events import Alignment, ErrorEvent, Event, Status, TurnDone
from protocol.surrogates import join

OPEN_TURNS: Final = 4  # of a socket in the session, which takes nine, and perhaps from two sockets
HELD_CHARS: Final = 200_000  # of text that waits for its turn to be opened, over all contexts
POLICY: Final = 1008  # the code of their errors, which is the one that their sockets close with


@dataclass(frozen=True, slots=True)
class Names:
    """Of fields; some sockets have them in camelCase, some in snake_case, and clients read one of them."""

    context: str
    final: str
    normalized: str
    starts: str
    durations: str


CAMEL: Final = Names("contextId", "isFinal", "normalizedAlignment", "charStartTimesMs", "charDurationsMs")
SNAKE: Final = Names("context_id", "is_final", "normalized_alignment", "char_start_times_ms", "char_durations_ms")


class Since(Enum):
    """What the times of characters count from."""

    CONTEXT = auto()  # its first sound
    TOLD = auto()  # the last character of the message before: for who adds up what each message spans
    SOUND = auto()  # the first sound of the message: for who adds up the sound of each message


class Context:
    """From its first message to `isFinal`."""

    def __init__(
        self, name: str | None, encoder: StreamEncoder, settings: SessionUpdate, speakers: Sequence[str] = ()
    ) -> None:
        """name: None where a socket has but one. speakers: their tokens, where they are ours and not the client's."""
        self.name = name
        self.encoder = encoder
        self.settings = settings
        self.turn: str | None = None  # that takes text
        self.waiting: list[str] = []  # turns without a turn.done
        self.backlog: list[Callable[[], list[Output]]] = []  # what is to be done once there is room for its turn
        self.held_chars = 0  # of text in it
        self.markup = Markup()
        self.wording = Wording()
        self.half = ""  # of a character that was cut
        self.letters: dict[str, str] = {}  # text of the turns that wait, as it was handed on
        self.spelling = Letters(speakers)
        self.unflushed = False  # words came since the last flush
        self.resting = False  # the last that came was a flush without words: the client has nothing more to say for now
        self.sounded = False  # some of it was spoken
        self.audio_ms = 0  # of turns that are done
        self.pushed_ms = 0.0  # of sound, before that of the message that is made
        self.closed = False  # no text comes any more
        self.over = False  # nothing of it is sent any more
        self.failed = False  # an error was the last that was sent


class Contexts:
    """Those of one socket. `over` is called with each that ends, and says what else is to be done."""

    def __init__(self, host: Host, *, names: Names, since: Since, over: Callable[[Context], Sequence[Output]]) -> None:
        """names, since: of what is told."""
        self._host = host
        self._names = names
        self._since = since
        self._over = over
        self.turns = Turns(host)
        self._of: dict[str, Context] = {}  # by turn
        self._held: list[Context] = []  # that wait for a turn, oldest first

    @property
    def speaking(self) -> Sequence[Context]:
        """Those that still have something to send, oldest first."""
        return [*dict.fromkeys(self._of.values()), *(held for held in self._held if held not in self._of.values())]

    def say(self, context: Context, text: str) -> list[Output]:
        """More text for it."""
        text, context.half = join(context.half, text)
        text = context.markup.text(text)
        return self._do(context, lambda: self._speak(context, text), len(text))

    def flush(self, context: Context) -> list[Output]:
        """Speak what is there. Nothing happens if nothing is, or in the middle of a tag that a framework has split."""
        return self._do(context, lambda: self._flush(context))

    def finish(self, context: Context) -> list[Output]:
        """No more text comes: speak the rest, and then it is over."""
        context.closed = True
        return self._do(context, lambda: self._finish(context))

    def cancel(self, context: Context) -> list[Output]:
        """It was interrupted: it is over now."""
        context.closed = True
        return [*self.turns.cancel(self._live(context), "barge_in"), *self._end(context, [])]

    def fail(self, context: Context, code: str, why: str) -> list[Output]:
        """It is over because something is wrong."""
        context.closed = context.failed = True
        return [
            *self.turns.cancel(self._live(context), "failed"),
            *self._end(context, [error(context.name, code, why, self._names)]),
        ]

    def event(self, event: Event) -> list[Output]:
        """Call it with every event."""
        self.turns.event(event)
        return [*self._told(event), *self._let_in()]

    def audio(self, turn: str, payload: bytes) -> list[Output]:
        """Of any of its turns."""
        context = self._of.get(turn)
        if context is None or context.over:
            return []
        context.sounded = True
        outputs = self._sound(context, context.encoder.push(payload))
        context.pushed_ms += _ms(context.encoder, payload)
        return outputs

    def _told(self, event: Event) -> list[Output]:
        match event:
            case Alignment() if (context := self._of.get(event.turn)) is not None:
                if context.waiting[:1] == [event.turn]:
                    context.spelling.event(event)
            case TurnDone() if (context := self._of.get(event.turn)) is not None:
                return self._done(context, event)
            case ErrorEvent():
                return self._refused(event)
        return []

    def _do(self, context: Context, act: Callable[[], list[Output]], chars: int = 0) -> list[Output]:
        """Now, or behind what waits already."""
        if context not in self._held:
            return act()
        context.backlog.append(act)
        context.held_chars += chars
        if sum(held.held_chars for held in self._held) > HELD_CHARS:
            return self.fail(context, "text_overflow", f"more than {HELD_CHARS} characters wait to be spoken")
        return []

    def _let_in(self) -> list[Output]:
        """Those for whom there is room now."""
        outputs: list[Output] = []
        while self._held and not self._full:
            context = self._held.pop(0)
            backlog, context.backlog, context.held_chars = context.backlog, [], 0
            for act in backlog:
                outputs += self._do(context, act)
        return outputs

    @property
    def _full(self) -> bool:
        return sum(len(context.waiting) for context in set(self._of.values())) >= OPEN_TURNS

    def _speak(self, context: Context, text: str) -> list[Output]:
        if context.turn is None and text.strip() and self._full:
            self._held.append(context)
            return self._do(context, lambda: self._speak(context, text), len(text))
        text = context.wording.message(text)
        if not text or (context.turn is None and not text.strip()):
            return []
        outputs: list[Output] = []
        if context.turn is not None and self.turns.chars(context.turn) + len(text) > self._host.limits.turn_chars:
            outputs.append(TurnEnd(turn=context.turn))  # the next turn goes on as if it were the same
            context.turn = None
        if context.turn is None:
            context.turn = self.turns.new()
            context.waiting.append(context.turn)
            context.letters[context.turn] = ""
            self._of[context.turn] = context
            outputs.append(context.settings)
        context.unflushed = context.unflushed or not text.isspace()
        self._note_text(context, context.turn, text)
        return [*outputs, *self.turns.say(context.turn, text)]

    def _flush(self, context: Context) -> list[Output]:
        if context.turn is None or not context.unflushed or context.wording.in_bracket:
            return []
        context.wording.flush()
        context.unflushed = False
        return [TextFlush(turn=context.turn)]

    def _finish(self, context: Context) -> list[Output]:
        outputs = self._speak(context, context.markup.rest())
        if context in self._held:
            return [*outputs, *self._do(context, lambda: self._finish(context))]
        if context.turn is not None:
            outputs.append(TurnEnd(turn=context.turn))
        context.turn = None
        return [*outputs, *self._finished(context)]

    def _note_text(self, context: Context, turn: str, text: str) -> None:
        """Only the oldest turn's words have times yet; the others' text is kept for when it is their turn."""
        if turn == context.waiting[0]:
            context.spelling.text(text)
        else:
            context.letters[turn] += text

    def _done(self, context: Context, event: TurnDone) -> list[Output]:
        if context.over or event.turn not in context.waiting:
            return []
        if event.status is Status.FAILED:
            context.waiting.remove(event.turn)
            return self.fail(context, event.reason or "failed", "no speech could be made of it")
        context.audio_ms += event.audio_ms
        context.spelling.turn_done(event.audio_ms, complete=event.status is Status.COMPLETED)
        context.waiting.remove(event.turn)
        if context.waiting:
            context.spelling.text(context.letters[context.waiting[0]])
        if context.turn == event.turn:
            context.turn = None  # the server has ended it; what still comes begins another
            context.unflushed = False
        return self._finished(context) or self._sound(context, b"")

    def _finished(self, context: Context) -> list[Output]:
        if not context.closed or context.waiting or context.over or context in self._held:
            return []
        rest = context.encoder.finish(context.audio_ms) if context.sounded else b""
        return self._end(context, self._sound(context, rest))

    def _end(self, context: Context, outputs: Sequence[Output]) -> list[Output]:
        if context.over:
            return []
        context.over = True
        context.backlog = []
        self._held = [held for held in self._held if held is not context]
        self._of = {turn: known for turn, known in self._of.items() if known is not context}
        return [*outputs, *self._over(context)]

    def _refused(self, event: ErrorEvent) -> list[Output]:
        """Of a turn that is over, or was never opened, its context knows. Anything else that is refused was asked for by the newest."""
        newest = self.speaking[-1] if self.speaking else None
        context = newest if event.turn is None else self._of.get(event.turn)
        return self.fail(context, str(event.code), event.message) if context is not None else []

    def _live(self, context: Context) -> list[str]:
        return [turn for turn in context.waiting if self.turns.live(turn)]

    def _sound(self, context: Context, data: bytes) -> list[Output]:
        """With the times of what was spoken since the last message. Nothing, if there is neither."""
        told = context.spelling.take()
        if not data and told is None:
            return []
        return [
            message(
                context.name,
                self._names,
                {
                    "audio": base64.b64encode(data).decode("ascii") if data else None,
                    self._names.final: None,
                    self._names.normalized: self._times(context, told, told.spoken) if told is not None else None,
                    "alignment": self._times(context, told, told.written) if told is not None else None,
                },
            )
        ]

    def _times(self, context: Context, told: Spelling, letters: Sequence[Letter]) -> dict[str, object]:
        base_ms = {Since.CONTEXT: 0, Since.TOLD: told.base_ms, Since.SOUND: round(context.pushed_ms)}[self._since]
        return {
            "chars": [letter.char for letter in letters],
            self._names.starts: [letter.start_ms - base_ms for letter in letters],
            self._names.durations: [letter.end_ms - letter.start_ms for letter in letters],
        }


def _ms(encoder: StreamEncoder, payload: bytes) -> float:
    """How long a native message sounds."""
    if encoder.output.format is Format.PCM_F32LE:
        return len(payload) / 4 * 1000 / encoder.rate
    return encoder.output.frame_ms


def message(context: str | None, names: Names, fields: Mapping[str, object]) -> str:
    """context: None where a socket has but one."""
    return json.dumps(fields if context is None else {**fields, names.context: context})


def final(context: str | None, names: Names = CAMEL) -> str:
    """Nothing follows."""
    return message(context, names, {"audio": None, names.final: True})


def error(context: str | None, code: str, why: str, names: Names = CAMEL) -> str:
    """What is wrong."""
    return message(context, names, {"message": why, "error": code, "code": POLICY})


def refusal(context: str | None, refused: Refused, names: Names = CAMEL) -> str:
    """What is wrong with a message."""
    return error(context, refused.code, refused.message, names)

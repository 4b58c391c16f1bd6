"""What a client takes for one utterance, whichever number of native turns it needs: its text, its end, its words.

Knows turns and text that comes in pieces. Does not know any foreign message. A native turn may end before the client has ended its text
(no text came for long, or there is too much of it); what still comes goes on in another turn, and the client does not see the seam.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from protocol.commands import Command, SessionUpdate, TextFlush, TurnEnd
from protocol.dialects.interface import Host, Output, Refused, StreamEncoder
from protocol.dialects.turns import Turns
from protocol.dialects.wording import Wording
from protocol.events import Alignment, AlignmentItem, ErrorEvent, Event, TurnDone, TurnStarted
from protocol.surrogates import join

OPEN_TURNS: Final = 4  # of one connection in the session, which takes nine, and perhaps from two connections
HELD_CHARS: Final = 200_000  # of text that waits for its turn to be opened


class Words:
    """When they are spoken, for clients that cannot take back what they were told: each once, and none before the one in front of it."""

    def __init__(self) -> None:
        self._told: set[tuple[str, int]] = set()  # their turn, and where they begin in it
        self._at_ms = 0  # where the last one begins

    def take(self, alignment: Alignment, before_ms: int = 0) -> list[AlignmentItem]:
        """The new ones. before_ms: added to their times."""
        moved = []
        for item in alignment.items:
            if (alignment.turn, item.char_start) not in self._told:
                self._told.add((alignment.turn, item.char_start))
                self._at_ms = max(self._at_ms, item.start_ms + before_ms)
                end_ms = max(self._at_ms, item.end_ms + before_ms)
                moved.append(item._replace(start_ms=self._at_ms, end_ms=end_ms))
        return moved


class Speech:
    """One utterance. A dialect adds what it must know of it in a subclass."""

    def __init__(self, name: str, encoder: StreamEncoder, settings: SessionUpdate) -> None:
        """name: what its messages call it."""
        self.name = name
        self.encoder = encoder
        self.settings = settings
        self.wording = Wording()
        self.turn: str | None = None  # that takes text
        self.waiting: list[str] = []  # turns without a turn.done
        self.chars = 0  # of text so far
        self.audio_ms = 0  # of its turns that are done
        self.half = ""  # of a character that was cut
        self.unflushed = False  # words came since the last flush
        self.backlog: list[Callable[[], list[Output]]] = []  # what is to be done once the session takes its turn
        self.ended = False  # no more text comes
        self.over = False  # its last message was sent: nothing more is said of it
        self._words = Words()

    @property
    def finished(self) -> bool:
        """Whether all that it will ever say was sent."""
        return self.ended and not self.waiting and not self.backlog

    def words(self, alignment: Alignment) -> list[AlignmentItem]:
        """Those not told before, by the clock of the whole utterance."""
        return self._words.take(alignment, self.audio_ms)


Kind = TypeVar("Kind", bound=Speech)


class Speeches(Generic[Kind]):
    """Those of one connection."""

    def __init__(self, host: Host) -> None:
        self.turns = Turns(host)
        self._host = host
        self._of: dict[str, Kind] = {}  # by turn
        self._held: list[Kind] = []  # that wait for a place in the session, oldest first
        self._held_chars = 0

    def of(self, turn: str | None) -> Kind | None:
        """The one that a turn speaks for, unless it is over."""
        speech = self._of.get(turn) if turn is not None else None
        return None if speech is None or speech.over else speech

    @property
    def open(self) -> Sequence[Kind]:
        """Those that are not over and have words, oldest first."""
        return list(dict.fromkeys(speech for speech in self._of.values() if not speech.over))

    def say(self, speech: Kind, text: str) -> list[Output]:
        """More text for it; a turn is opened for it where there are words, and room in the session. Raises Refused."""
        if speech.backlog or (speech.turn is None and text.strip() and (self._held or self._full(len(text)))):
            return self._hold(speech, lambda: self._say(speech, text), len(text))
        return self._say(speech, text)

    def _say(self, speech: Kind, text: str) -> list[Output]:
        text, speech.half = join(speech.half, text)
        text = speech.wording.message(text)
        if not text or (speech.turn is None and not text.strip()):
            return []
        outputs: list[Output] = []
        if speech.turn is not None and self.turns.chars(speech.turn) + len(text) > self._host.limits.turn_chars:
            outputs.append(TurnEnd(turn=speech.turn))
            speech.turn = None
        if speech.turn is None:
            speech.turn = self.turns.new()
            speech.waiting.append(speech.turn)
            self._of[speech.turn] = speech
            outputs.append(speech.settings)
        speech.chars += len(text)
        speech.unflushed = speech.unflushed or not text.isspace()
        return [*outputs, *self.turns.say(speech.turn, text)]

    def say_whole(self, speech: Kind, text: str) -> list[Output]:
        """All of its text, as it stands, in one turn."""
        speech.turn = self.turns.new()
        speech.waiting.append(speech.turn)
        self._of[speech.turn] = speech
        speech.chars += len(text)
        return [speech.settings, *self.turns.say(speech.turn, text), *self.end(speech)]

    def flush(self, speech: Kind, *, by_client: bool = True) -> list[Output]:
        """Speak what is there. Nothing, if nothing is; nor inside of a [tag], of which the rest comes.

        by_client: who flushes has come to the end of a word; who only was slow has not.
        """
        if speech.backlog:
            return self._hold(speech, lambda: self._flush(speech, by_client), 0)
        return self._flush(speech, by_client)

    def _flush(self, speech: Kind, by_client: bool) -> list[Output]:
        if speech.turn is None or not speech.unflushed or speech.wording.in_bracket:
            return []
        if by_client:
            speech.wording.flush()
        speech.unflushed = False
        return [TextFlush(turn=speech.turn)]

    def end(self, speech: Kind) -> list[Output]:
        """No more text comes for it."""
        speech.ended = True
        return self._hold(speech, lambda: self._end(speech), 0) if speech.backlog else self._end(speech)

    def let_in(self) -> list[Output]:
        """What waited and has room now. Call it behind every event."""
        outputs: list[Output] = []
        while self._held and not self._full(0):
            speech = self._held.pop(0)
            backlog, speech.backlog = speech.backlog, []
            for act in backlog:
                outputs += act()
        if not self._held:
            self._held_chars = 0
        return outputs

    def _full(self, chars: int) -> bool:
        turns = [turn for turn, speech in self._of.items() if turn in speech.waiting]
        known = sum(map(self.turns.chars, turns))
        return len(turns) >= OPEN_TURNS or (bool(turns) and known + chars > self._host.limits.turn_chars)

    def _hold(self, speech: Kind, act: Callable[[], list[Output]], chars: int) -> list[Output]:
        if self._held_chars + chars > HELD_CHARS:
            raise Refused(429, f"more than {HELD_CHARS} characters wait to be spoken", "too_much_text")
        if not speech.backlog:
            self._held.append(speech)
        speech.backlog.append(act)
        self._held_chars += chars
        return []

    def _end(self, speech: Kind) -> list[Output]:
        speech.unflushed = False
        turn, speech.turn = speech.turn, None
        return [TurnEnd(turn=turn)] if turn is not None else []

    def event(self, event: Event) -> Kind | None:
        """Call it with every event first. Returns whose it is; None: of none that is not over."""
        self.turns.event(event)
        match event:
            case TurnDone():
                return self._done(event)
            case ErrorEvent(turn=None):
                return next(reversed(self.open), None)  # what was asked for last cannot be done
            case ErrorEvent() | Alignment() | TurnStarted():
                return self.of(event.turn)
        return None

    def cut(self, speeches: Sequence[Kind], reason: str) -> list[Command]:
        """Nothing more is said of these, and what somebody may be hearing of them ends."""
        for speech in speeches:
            speech.over = speech.ended = True
            speech.backlog = []
        self._held = [speech for speech in self._held if not speech.over]
        turns = [turn for turn in self.turns.heard if self._of.get(turn) in speeches]
        return self.turns.cancel(turns, reason)

    @property
    def heard(self) -> Sequence[Kind]:
        """Those that somebody may be listening to, oldest first; some are over."""
        found = [self._of.get(turn) for turn in self.turns.heard]
        return list(dict.fromkeys(speech for speech in found if speech is not None))

    def leave(self, reason: str) -> list[Command]:
        """The client is gone. Who closes after everything was sent has let it be played; the rest nobody will hear."""
        unsent = [turn for turn in self.turns.heard if self.of(turn) is not None]
        return self.turns.cancel(unsent, reason)

    def _done(self, event: TurnDone) -> Kind | None:
        speech = self._of.get(event.turn)
        if speech is None or event.turn not in speech.waiting:
            return None
        speech.waiting.remove(event.turn)
        speech.audio_ms += event.audio_ms
        if speech.turn == event.turn:
            speech.turn = None  # the server has ended it; what still comes begins another
            speech.unflushed = False
        heard = set(self.turns.heard)
        self._of = {turn: known for turn, known in self._of.items() if turn in heard or not known.over}
        return None if speech.over else speech

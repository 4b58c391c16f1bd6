"""What a client takes for one utterance, whichever number of native turns it needs: its text, its end, its words.

Knows turns and text that comes in pieces. Does not know any foreign message. A native turn may end before the client has ended its text
(no text came for long, or there is too much of it); what still comes goes on in another turn, and the client does not see the seam.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from protocol.commands import Command, SessionUpdate, TextFlush, TurnEnd
from protocol.dialects.interface import Host, Output, StreamEncoder
from protocol.dialects.turns import Turns
from protocol.dialects.wording import Wording
from protocol.events import Alignment, AlignmentItem, ErrorEvent, Event, TurnDone, TurnStarted
from protocol.surrogates import join


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
        self.ended = False  # no more text comes
        self.over = False  # its last message was sent: nothing more is said of it
        self._words = Words()

    @property
    def finished(self) -> bool:
        """Whether all that it will ever say was sent."""
        return self.ended and not self.waiting

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

    def of(self, turn: str | None) -> Kind | None:
        """The one that a turn speaks for, unless it is over."""
        speech = self._of.get(turn) if turn is not None else None
        return None if speech is None or speech.over else speech

    @property
    def open(self) -> Sequence[Kind]:
        """Those that are not over and have words, oldest first."""
        return list(dict.fromkeys(speech for speech in self._of.values() if not speech.over))

    def say(self, speech: Kind, text: str) -> list[Output]:
        """More text for it; a turn is opened for it where there are words."""
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
        if speech.turn is None or not speech.unflushed or speech.wording.in_bracket:
            return []
        if by_client:
            speech.wording.flush()
        speech.unflushed = False
        return [TextFlush(turn=speech.turn)]

    def end(self, speech: Kind) -> list[Output]:
        """No more text comes for it."""
        speech.ended = True
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

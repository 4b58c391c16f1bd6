"""What a conversation remembers: the segments that were heard, in order, within a budget.

Knows turns, their heard segments and how much history a checkpoint is good for. Does not know how it became known what was heard.
Every change makes a new Context, so that the history that the next turn would have can be asked for before the present one has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from engine.api import Conversation, SpokenSegment
from protocol.commands import Role

KEEP = 0.6  # share of the budget left after dropping: what remains is prefilled anew, so dropping must be rare


@dataclass(frozen=True, slots=True, eq=False)
class HeardSegment:
    """One segment as far as it was heard."""

    spoken: SpokenSegment
    chars: int  # code points of raw text that it stands for


@dataclass(frozen=True, slots=True, eq=False)
class HeardTurn:
    """One turn as far as it was heard."""

    n: int
    segments: tuple[HeardSegment, ...]


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody else said, or the agent was told."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Immutable. Turns are in the order in which they spoke."""

    frame_s: float  # duration of a codec frame
    max_s: float
    max_turns: int
    turns: tuple[HeardTurn, ...] = ()
    said: tuple[Said, ...] = ()  # by others, in order: a record, which no checkpoint of today is conditioned on

    @property
    def audio_s(self) -> float:
        """Heard speech it holds, in seconds."""
        return _frames(self.turns) * self.frame_s

    @property
    def text_chars(self) -> int:
        """Code points of raw text it holds."""
        return sum(segment.chars for turn in self.turns for segment in turn.segments)

    def heard(self, turn: HeardTurn) -> Context:
        """With `turn` in its place, or in place of what was known of the same turn; without it if nothing of it was heard."""
        if any(known.n == turn.n for known in self.turns):
            turns = tuple(turn if known.n == turn.n else known for known in self.turns)
        else:
            turns = tuple(sorted((*self.turns, turn), key=lambda known: known.n))
        return replace(self, turns=tuple(known for known in turns if known.segments))._within_budget()

    def limited(self, max_s: float, max_turns: int) -> Context:
        """With another budget."""
        return replace(self, max_s=max_s, max_turns=max_turns)._within_budget()

    def told(self, said: Said, max_chars: int) -> Context:
        """With what somebody else said; of it all the newest that are within so many code points."""
        kept, chars = list[Said](), 0
        for known in reversed((*self.said, said)):
            chars += len(known.text)
            if chars > max_chars:
                break
            kept.insert(0, known)
        return replace(self, said=tuple(kept))

    def cleared(self) -> Context:
        """Without anything."""
        return replace(self, turns=(), said=())

    def conversation(self, conversation_id: str) -> Conversation:
        """As the engine takes it."""
        heard = tuple(segment.spoken for turn in self.turns for segment in turn.segments)
        return Conversation(conversation_id, heard, self.max_s)

    def _within_budget(self) -> Context:
        turns = list(self.turns[-self.max_turns :] if self.max_turns else ())
        total = _frames(turns) * self.frame_s
        budget = KEEP * self.max_s if total > self.max_s else total
        while turns and total > budget:
            oldest, rest = turns[0].segments[0], turns[0].segments[1:]
            total -= oldest.spoken.codes.shape[1] * self.frame_s
            turns[0:1] = [replace(turns[0], segments=rest)] if rest else []
        return replace(self, turns=tuple(turns))


def _frames(turns: Iterable[HeardTurn]) -> int:
    return sum(segment.spoken.codes.shape[1] for turn in turns for segment in turn.segments)

"""Figures about prosody that carries over: an untagged second turn goes on as the first was heard, through its codes alone.

Knows histories and what may be missing from them. Does not know how a server makes them; it sends what a server would send.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.api import SpokenSegment
from engine.evaluate.listening import places
from engine.evaluate.measure import RATE
from engine.evaluate.report import Row, share
from engine.evaluate.styles import HOLDS, STYLES, move
from engine.evaluate.tags import key
from engine.evaluate.trial import Take, Trial
from engine.train.styles import Style

KEPT_TARGET = 0.90
# Other noise than the untagged rendering has: without a history it must not come out the same by chance.
_SECOND_SEED = 1
_HEARD = 0.5  # of a first turn that a barge-in cuts


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """A tagged first turn, as the model said it, and the text of the second."""

    style: Style
    text: str  # of the first, without its tag
    first: Take
    after: str

    def whole(self, tag: bool = True) -> SpokenSegment:
        """The first turn, heard to its end."""
        return SpokenSegment(self.shown(self.text) if tag else self.text, self.first.spoken.codes)

    def shown(self, text: str) -> str:
        return f"[{self.style.value}] {text}"

    def begun(self, frames: int) -> SpokenSegment:
        """Its text with only so many frames of it."""
        return SpokenSegment(self.shown(self.text), self.first.spoken.codes[:, :frames])


def rows(trial: Trial) -> dict[str, list[Row]]:
    """Every kind of history, over all styles; and the plain kind by style."""
    pairs = _pairs(trial)
    rng = trial.rng("never heard")
    histories: dict[str, Sequence[SpokenSegment | None]] = {
        "whole": [pair.whole() for pair in pairs],
        "untold": [pair.whole(tag=False) for pair in pairs],
        "cut": [_cut(trial, pair) for pair in pairs],
        "deleted": [pair.begun(0) for pair in pairs],
        "unheard": [pair.begun(rng.choice((1, 2))) for pair in pairs],
        "none": [None] * len(pairs),
    }
    holds = _holds(trial, pairs, histories)
    each = [
        share(
            f"carried_{key(style.value)}", f"  [{style.value}]",
            [h for h, pair in zip(holds["whole"], pairs, strict=True) if pair.style is style], None,
        )
        for style in STYLES
    ]  # fmt: skip
    kept = gone = KEPT_TARGET
    return {
        "Carried prosody: an untagged second turn": [
            share("carried", "keeps the first one's style", holds["whole"], kept),
            *each,
            share("carried_by_codes_alone", "keeps it where no text names it", holds["untold"], kept),
            share("carried_after_cut", "keeps it after a barge-in cut the first turn", holds["cut"], kept),
            share("fresh_does_not", "has none in a fresh conversation", _not(holds["none"]), gone),
            share(
                "deleted_codes_do_not", "has none once the first turn's codes are deleted", _not(holds["deleted"]), gone
            ),
            share("never_heard_does_not", "has none where the style was never heard", _not(holds["unheard"]), gone),
        ]
    }


def _not(flags: Sequence[bool]) -> list[bool]:
    return [not flag for flag in flags]


def _pairs(trial: Trial) -> list[_Pair]:
    """Tagged first turns. Their texts are among those of the tags' own figures, so most of them are spoken already."""
    pool, pairs = trial.some(trial.sizes.tags), []
    for number, style in enumerate(STYLES):
        chosen = [(number + 3 * i) % len(pool) for i in range(trial.sizes.carried)]
        firsts = trial.say([f"[{style.value}] {pool[i]}" for i in chosen], f"[{style.value}]")
        pairs += [
            _Pair(style, pool[i], first, pool[(i + len(pool) // 2) % len(pool)])
            for i, first in zip(chosen, firsts, strict=True)
        ]
    return pairs


def _cut(trial: Trial, pair: _Pair) -> SpokenSegment:
    """What is kept of the first turn when it is cut at a word near its middle: the text and the codes that were heard."""
    reading = trial.teacher.read(pair.text)
    codes, frame_s = pair.first.spoken.codes, trial.mouth.info.frame_s
    half = _HEARD * len(pair.first.samples) / RATE
    if not len(pair.first.samples) or not reading.phones:
        return pair.whole()
    starts = places(trial.hear([pair.first.samples])[0], reading.phones)
    # Words whose first sound lies beyond the middle were not heard; the first such one ends the text.
    unheard = [at for at, (start, _) in zip(reading.at, starts, strict=True) if start > half and at]
    char = min(unheard, default=len(pair.text))
    text = pair.text[:char].rstrip() or pair.text.split(" ")[0]
    return SpokenSegment(pair.shown(text), codes[:, : max(1, round(half / frame_s))])


def _holds(
    trial: Trial, pairs: Sequence[_Pair], histories: Mapping[str, Sequence[SpokenSegment | None]]
) -> dict[str, list[bool]]:
    """For each kind of history, whether each second turn is nearer to the style than to the same text without any."""
    requests = [
        trial.request((pair.after,), history=() if heard is None else (heard,), seed=_SECOND_SEED)
        for history in histories.values()
        for pair, heard in zip(pairs, history, strict=True)
    ]
    takes = iter(trial.turns(requests, "second turns"))
    plain = trial.say([pair.after for pair in pairs], "untagged")
    return {
        name: [
            move(trial, pair.style, pair.after, next(takes).samples, usual.samples) >= HOLDS
            for pair, usual in zip(pairs, plain, strict=True)
        ]
        for name in histories
    }

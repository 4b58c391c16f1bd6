"""Deltas in, segments out: what the engine is given in one piece, and when.

Knows how long segments may be for each latency setting, and the idle rule. Does not know the engine, audio or the time: every call that
depends on it says what time it is (seconds, monotonic). Which positions are borders is `borders`' matter, what tags do is `tags`'.

A segment's borders depend on the text alone, not on how it was cut into deltas: candidates are examined in order, each when the character
after it has come. Only `flush` and the idle rule look at what there is at the moment: where no delta came for `IDLE_S` and the listener is
about to run out, the whole words that are there are spoken.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Final

from protocol.config import Latency, TagMode
from realtime.borders import Border, BorderScanner, Level
from realtime.characters import UNITS_PER_WORD
from realtime.markdown import MarkdownLexer
from realtime.repertoire import EVERYTHING, Repertoire, Unread
from realtime.said import Change
from realtime.tags import Delivery, Lexer, Reading, Tag, TagKind, Text, Token, engine_reading, joined, lex, understood
from realtime.wording import AS_IT_STANDS, LanguageGuess, Wording

# A hosted model's tokens come in bursts up to 200 ms apart; a listener notices a pause above some 400 ms.
IDLE_S: Final = 0.35
LONG_IDLE_S: Final = 1.5  # after this the last word counts as finished
LOW_LEAD_S: Final = 0.3  # time that the engine needs for a first frame, with a margin
MAX_SEGMENT_CHARS: Final = 600  # some 45 s of speech; above it S2-Pro's voice drifts within one segment
MIN_SEGMENT_CHARS: Final = 128  # a tag of 82 and a grapheme of 33 code points fit in
_MIN_WAIT_S: Final = 0.005  # between two looks at a lead that shrinks while one looks

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece for the engine, or a piece of the input that nobody can speak."""

    index: int  # among the segments of the turn, those that cannot be spoken included; both parts of one have the same
    text: str  # what the engine gets: prefix, then the raw text as the tag mode has it; "" if it cannot be spoken
    prefix: str  # speaker token and style tag in force, put in front; the client did not write them here
    raw: str  # the client's text; the segments' raw texts joined are the turn's
    start: int  # code point range of `raw` in the turn
    end: int
    speaker: int | None  # in force at its start
    speakable: bool  # it has a letter, a digit or a sound that is heard; others are not given to the engine
    # What of `raw` the engine does not get because its checkpoint cannot read it, and what is not read as it stands; both with positions
    # in the turn.
    unread: tuple[Unread, ...] = ()
    changes: tuple[Change, ...] = ()
    tokens: tuple[Token, ...] = ()  # what `raw` consists of, with what is said for it
    # For each code point of `text` the one of the turn that it is said for, -1 for the prefix; behind that it never falls.
    origin: tuple[int, ...] = ()

    def text_until(self, end: int) -> str:
        """What the engine got of it, up to a code point of the turn."""
        count = next((at for at, place in enumerate(self.origin) if place >= end), len(self.origin))
        return self.text[:count].rstrip()

    def parted(self, at: int, tags: TagMode, repertoire: Repertoire) -> tuple[Segment, Segment]:
        """The two segments before and behind a code point of the turn between two words of it, both speakable.

        What is to be told about the text stays with the first.
        """
        head = [part for token in self.tokens if (part := _before(token, at))]
        tail = [part for token in self.tokens if (part := _behind(token, at))]
        in_force = Delivery(self.speaker).after(lex(self.prefix, TagMode.PERFORM)).after(understood(head, repertoire))
        prefix = in_force.prefix(understood(tail, repertoire), tags)
        text, reading = self.text_until(at), engine_reading(prefix, tail, tags, repertoire)
        first = replace(
            self,
            text=text,
            raw=self.raw[: at - self.start],
            end=at,
            tokens=tuple(head),
            origin=self.origin[: len(text)],
        )
        rest = replace(
            self,
            text=reading.text,
            prefix=prefix,
            raw=self.raw[at - self.start :],
            start=at,
            speaker=in_force.speaker,
            unread=(),
            changes=(),
            tokens=tuple(tail),
            origin=reading.origin,
        )
        return first, rest


@dataclass(frozen=True, slots=True)
class _Stage:
    """When a segment is long enough. Lengths are weights: the time that as many Latin letters take."""

    words: int  # never fewer, unless idle or at the end
    sentence: int  # from this weight on it ends with a sentence; a paragraph or a speaker may end at half of it
    clause: int | None  # from this weight on a comma is enough
    # From this number of words on any word border is enough. Six are spoken for some two seconds, in which more text comes.
    word: int | None
    cap: int  # at this weight the best border that came is taken


# The first segment is what the listener waits for. The following ones at most double what was there before, so that text which comes
# twice as fast as speech never leaves a hole; from 120 letters (8 s) on, melody gains nothing from more.
_SCHEDULE: Final = {
    Latency.LOW: (
        _Stage(words=2, sentence=0, clause=0, word=6, cap=60),
        _Stage(words=2, sentence=16, clause=50, word=None, cap=120),
        _Stage(words=2, sentence=60, clause=110, word=None, cap=160),
        _Stage(words=2, sentence=120, clause=220, word=None, cap=300),
    ),
    Latency.BALANCED: (
        _Stage(words=5, sentence=0, clause=0, word=12, cap=90),
        _Stage(words=2, sentence=30, clause=80, word=None, cap=160),
        _Stage(words=2, sentence=80, clause=140, word=None, cap=220),
        _Stage(words=2, sentence=120, clause=220, word=None, cap=300),
    ),
    Latency.QUALITY: (
        _Stage(words=2, sentence=0, clause=150, word=None, cap=300),
        _Stage(words=2, sentence=40, clause=160, word=None, cap=300),
        _Stage(words=2, sentence=120, clause=220, word=None, cap=300),
    ),
}


class Segmenter:
    """The text of one turn."""

    def __init__(
        self,
        latency: Latency,
        tags: TagMode,
        max_segment_chars: int = MAX_SEGMENT_CHARS,
        repertoire: Repertoire = EVERYTHING,
        wording: Wording = AS_IT_STANDS,
    ) -> None:
        """Raises ValueError for a bound that a single tag could exceed."""
        if max_segment_chars < MIN_SEGMENT_CHARS:
            raise ValueError(f"max_segment_chars={max_segment_chars} is below {MIN_SEGMENT_CHARS}")
        self._stages = _SCHEDULE[latency]
        self._tags = tags
        self._repertoire = repertoire
        self._wording = wording
        self._language = LanguageGuess()
        self._max_chars = max_segment_chars
        self._lexer = MarkdownLexer(tags) if wording.clean else Lexer(tags)
        self._scanner = BorderScanner(sounds=tags is TagMode.PERFORM, repertoire=repertoire)
        self._delivery = Delivery()  # in force where the open segment starts
        self._start = self._scanner.here(Level.INSIDE)  # of the open segment
        self._tail = ""  # raw text from there on
        self._tokens: list[Token] = []  # what of it is known; text is in pieces as it came
        self._borders: list[Border] = []  # inside the open segment, in order
        self._examined = 0  # how many of them did not end it
        self._best: dict[Level, Border] = {}  # the last of each level among those
        self._word_border: Border | None = None  # the last one at which the open segment may end when idle
        self._ready: list[Segment] = []
        self._count = 0  # segments made
        self._spoken = 0  # of which can be spoken
        self._past: list[str] = []  # raw text before the open segment, in pieces
        self._half = ""  # first half of a surrogate pair
        self._last_delta_at: float | None = None
        self._ended = False

    @property
    def raw(self) -> str:
        """The input so far; half a surrogate pair at its end is not in it yet, one that stays alone is U+FFFD."""
        self._past = ["".join(self._past)]
        return self._past[0] + self._tail

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return self._ended

    def push(self, delta: str, now: float) -> None:
        """More text. Raises ValueError after `end`."""
        if self._ended:
            raise ValueError("text after the end of the turn")
        if delta:
            self._last_delta_at = now
            self._take_in(self._whole_pairs(delta))

    def flush(self) -> None:
        """Speak what is there; half a tag, token or grapheme waits for its other half. Nothing happens where nothing can be spoken."""
        if not self._ended and self._can_end(self._last_border()):
            self._cut(self._last_border())

    def end(self) -> None:
        """No more text. Idempotent."""
        if self._ended:
            return
        if self._half:
            self._take_in("\ufffd")
        self._ended = True
        for token in self._lexer.finish():
            self._scan(token)
        end = self._scanner.here(Level.GRAPHEME)
        self._borders.append(end)
        self._examine()
        if end.pos > self._start.pos:
            self._cut(end)

    def asks_lead(self, now: float) -> bool:
        """Whether what `take` returns depends on the lead."""
        return not self._ended and self._last_delta_at is not None and now >= self._last_delta_at + IDLE_S

    def take(self, now: float, lead_s: float) -> list[Segment]:
        """The segments that are ready, each once and in order.

        lead_s: how much speech the listener still has before him: generated, or expected of segments taken earlier, and not yet played.
        """
        if not self._ready and lead_s <= LOW_LEAD_S and self.asks_lead(now):
            due = [border for at, border in self._idle_options() if at <= now]
            if due:
                self._cut(due[-1])
        ready, self._ready = self._ready, []
        return ready

    def deadline(self, now: float, lead_s: float) -> float | None:
        """When `take` is worth a call although no text came (the lead shrinks in real time); None: not before more text comes.

        Ask again after each delta, and whenever the lead grew.
        """
        if self._ready:
            return now
        low_at = now + max(0.0, lead_s - LOW_LEAD_S)
        times = [max(at, low_at, now + _MIN_WAIT_S) for at, _ in self._idle_options()]
        return min(times, default=None)

    def _whole_pairs(self, delta: str) -> str:
        """The delta with surrogate pairs joined that a client cut in two; half a pair at its end is kept back."""
        text, self._half = self._half + delta, ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        if _SURROGATE.search(text):
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text

    def _take_in(self, text: str) -> None:
        self._tail += text
        for token in self._lexer.feed(text):
            self._scan(token)
            self._examine()

    def _scan(self, token: Token) -> None:
        self._tokens.append(token)
        self._borders += self._scanner.scan(token)

    def _examine(self) -> None:
        """Look at each border once for the open segment, and again for the one that follows where it lies beyond a cut."""
        while self._examined < len(self._borders):
            border = self._borders[self._examined]
            self._examined += 1
            cut = self._chosen(border) if border.pos > self._start.pos else None
            if cut:
                self._cut(cut)
            elif border.level is not Level.INSIDE:
                self._best[border.level] = border
                if border.level >= Level.SYLLABLE and self._can_end(border):
                    self._word_border = border

    def _chosen(self, border: Border) -> Border | None:
        """Where the open segment ends, now that this border is known; None: not yet."""
        stage = self._stages[min(self._spoken, len(self._stages) - 1)]
        if border.pos - self._start.pos > self._max_chars:
            return max(self._best.values(), key=self._last_resort)
        if border.weight - self._start.weight > stage.cap:
            least = self._start.weight + stage.cap // 4
            good = [b for b in self._best.values() if b.level >= Level.WEAK and b.weight >= least and self._can_end(b)]
            if good:
                return max(good, key=lambda b: b.level)
            return border if border.level >= Level.WEAK and self._can_end(border) else None
        return border if self._long_enough(border, stage) else None

    def _last_resort(self, border: Border) -> tuple[bool, bool, Level, int]:
        """How good a border is where the segment must end somewhere: better ones first, unless hardly anything stands before them."""
        far = border.pos - self._start.pos >= self._max_chars // 4
        return self._can_end(border), border.level >= Level.WEAK, border.level if far else Level.INSIDE, border.pos

    def _long_enough(self, border: Border, stage: _Stage) -> bool:
        weight = border.weight - self._start.weight
        words = border.words - self._start.words
        if not self._can_end(border) or words < stage.words * UNITS_PER_WORD:
            return False
        match border.level:
            case Level.PARAGRAPH:
                return weight >= stage.sentence // 2
            case Level.SENTENCE:
                return weight >= stage.sentence
            case Level.CLAUSE:
                return stage.clause is not None and weight >= stage.clause
            case Level.WORD:
                return stage.word is not None and words >= stage.word * UNITS_PER_WORD
        return False

    def _can_end(self, border: Border) -> bool:
        return border.speakable > self._start.speakable

    def _last_border(self) -> Border:
        """The end of what can be spoken now: no half grapheme, and no tags that belong to what comes next."""
        if self._scanner.dangling:
            return self._scanner.dangling
        if not self._scanner.ends_inside_cluster:
            return self._scanner.here(Level.GRAPHEME)
        return next((b for b in reversed(self._borders) if b.level is not Level.INSIDE), self._start)

    def _idle_options(self) -> list[tuple[float, Border]]:
        """Where the open segment may end without more text, and from when on, the latest time last."""
        if self._last_delta_at is None or self._ended:
            return []
        last: Border | None = self._last_border()
        whole = self._scanner.dangling or self._scanner.ends_word
        word = last if whole else self._word_border
        if self._scanner.ends_number:
            last = word  # nobody can say what number it is before something else follows, or the end
        options: list[tuple[float, Border | None]] = [
            (self._last_delta_at + IDLE_S, word),
            (self._last_delta_at + LONG_IDLE_S, last),
        ]
        return [(at, border) for at, border in options if border and self._can_end(border)]

    def _cut(self, border: Border) -> None:
        """End the open segment there."""
        length = border.pos - self._start.pos
        raw, self._tail = self._tail[:length], self._tail[length:]
        tokens = self._take_tokens(raw, border.pos)
        known = understood(tokens, self._repertoire)
        speakable = any(self._sounds(token) for token in known)
        prefix = self._delivery.prefix(known, self._tags) if speakable else ""
        reading = engine_reading(prefix, tokens, self._tags, self._repertoire) if speakable else Reading("", ())
        self._ready.append(
            Segment(
                index=self._count,
                text=reading.text,
                prefix=prefix,
                raw=raw,
                start=self._start.pos,
                end=border.pos,
                speaker=self._delivery.speaker,
                speakable=speakable,
                unread=tuple(stretch for token in tokens for stretch in self._unread(token)),
                changes=self._lexer.take_changes(border.pos) if isinstance(self._lexer, MarkdownLexer) else (),
                tokens=tuple(tokens),
                origin=reading.origin,
            )
        )
        self._count += 1
        self._spoken += speakable
        self._delivery = self._delivery.after(known)
        self._past.append(raw)
        del self._borders[: bisect_right(self._borders, border.pos, key=lambda b: b.pos)]
        self._examined, self._best, self._word_border = 0, {}, None
        self._start = border

    def _take_tokens(self, raw: str, end: int) -> list[Token]:
        """Those of the open segment, whose text is `raw`; texts are whole."""
        taken = [part for token in self._tokens if (part := _before(token, end))]
        self._tokens = [part for token in self._tokens if (part := _behind(token, end))]
        tokens = lex(raw, self._tags, self._start.pos) if isinstance(self._lexer, Lexer) else joined(taken)
        if not self._wording.rewords:
            return tokens
        text = " ".join(token.spoken for token in tokens if isinstance(token, Text))
        return self._wording.reworded(tokens, self._language.add(text))

    def _sounds(self, token: Token) -> bool:
        """Whether a token is heard."""
        if isinstance(token, Text):
            return self._repertoire.sounds(token.spoken)
        return isinstance(token, Tag) and token.kind is TagKind.SOUND and self._tags is TagMode.PERFORM

    def _unread(self, token: Token) -> list[Unread]:
        """What of a token is left out because it cannot be read; where tags are removed anyway, they are not."""
        if isinstance(token, Text):
            return self._repertoire.unread(token.shown, token.start)
        if isinstance(token, Tag) and self._tags is TagMode.PERFORM:
            return self._repertoire.unread(token.raw, token.start)
        return []


def _before(token: Token, end: int) -> Token | None:
    """What of a token stands before a position: only text is ever cut."""
    if token.start >= end:
        return None
    return token.between(token.start, end) if isinstance(token, Text) else token


def _behind(token: Token, first: int) -> Token | None:
    if token.start + len(token.raw) <= first:
        return None
    return token.between(first, token.start + len(token.raw)) if isinstance(token, Text) else token

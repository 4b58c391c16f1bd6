"""Which word is heard when, and from it, what of a turn was heard.

Knows segments and how much audio they got (protocol sections 4 and 6). Where the model tells where in the text its frames are, words have
the times of that (`realtime.trail`); else they are estimated from the text and scaled to the audio. Does not know packets, codes or time.
All times are ms from the start of the turn's audio; character ranges are code points of the turn's raw input.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice, takewhile
from math import floor
from typing import Final

from protocol.config import Snap, TagMode
from protocol.events import AlignmentSource
from realtime.borders import BorderScanner, Level
from realtime.characters import facts
from realtime.durations import END_MS, PAUSE_MS, sound_ms, spoken_ms
from realtime.repertoire import EVERYTHING, Repertoire
from realtime.segmenter import Segment
from realtime.tags import SpeakerToken, Tag, TagKind, Text
from realtime.trail import Trail

_SLACK_MS: Final = 1e-6  # sums of frame durations in floating point
_RATES: Final = (0.5, 2.0)  # outside of these a segment went wrong: that is no rate to expect of the next one


@dataclass(frozen=True, slots=True)
class Word:
    """One item of an `alignment` event: a word with its punctuation, or a character in scripts without spaces."""

    text: str  # raw[char_start:char_end]; tags are not part of it
    start_ms: int
    end_ms: int
    char_start: int
    char_end: int
    speaker: int | None


@dataclass(frozen=True, slots=True)
class Alignment:
    """Words that were not told before, or of which the times are known better now."""

    words: tuple[Word, ...]
    final: bool  # their segment's audio is complete: these times stay
    source: AlignmentSource = AlignmentSource.ESTIMATE


@dataclass(frozen=True, slots=True)
class HeardSegment:
    """A segment of which at least a word was heard: what the history keeps of it."""

    segment: Segment
    text: str  # as the engine would have got it: the segment's own text, or its prefix and the heard part
    frames: int  # codec frames from the segment's start, at least 1
    whole: bool  # all of it was heard: text and frames are those of the segment


@dataclass(frozen=True, slots=True)
class Heard:
    """What was heard of a turn. text + remaining is its raw input."""

    ms: int  # played, never more than was generated
    char_end: int
    text: str
    remaining: str
    segments: tuple[HeardSegment, ...]  # in order; what is not here was not heard
    kept_ms: int  # audio of their frames


@dataclass(frozen=True, slots=True)
class Unit:
    """A word, or a sound that no word follows in its segment, with the time it takes at a rate of 1."""

    text: str
    start: int  # code points in the turn's raw input; a word's tags are not in this range
    speaker: int | None  # of a word
    is_word: bool
    before_ms: float  # pause and sounds in front of it
    ms: float

    @property
    def end(self) -> int:
        """Code point behind it."""
        return self.start + len(self.text)


@dataclass(slots=True)
class _Piece:
    """A run without a border inside, while it is being read."""

    start: int
    text: str
    speaker: int | None
    level: Level  # best border in front of it
    sounds: list[Tag]  # between the piece before and this one
    said: str = ""  # what is spoken for it


def _pieces(segment: Segment, tags: TagMode, repertoire: Repertoire) -> Iterator[_Piece]:
    """A segment's words, its lone punctuation, and at the end what sounds stand there (as a piece without text)."""
    scanner = BorderScanner(sounds=tags is TagMode.PERFORM, pos=segment.start)
    piece: _Piece | None = None
    speaker, level, sounds = segment.speaker, Level.INSIDE, list[Tag]()
    for token in segment.tokens:
        borders = scanner.scan(token)
        if isinstance(token, Text):
            for border, char, said in zip(borders, token.raw, token.said or token.raw, strict=True):
                if facts(char).gap:
                    continue
                if piece is None or border.level >= Level.WEAK:
                    if piece:
                        yield piece
                    piece = _Piece(border.pos, "", speaker, max(level, border.level), sounds)
                    level, sounds = Level.INSIDE, []
                piece.text = segment.raw[piece.start - segment.start : border.pos + 1 - segment.start]
                piece.said += said
            continue
        if piece:
            yield piece
        piece = None
        level = max(level, borders[0].level)
        if isinstance(token, SpeakerToken):
            speaker = token.speaker
        elif tags is TagMode.PERFORM and token.kind is TagKind.SOUND and repertoire.reads_all(token.name):
            sounds.append(token)
    if piece:
        yield piece
    yield _Piece(segment.end, "", speaker, level, sounds)


def units(segment: Segment, tags: TagMode, repertoire: Repertoire = EVERYTHING) -> list[Unit]:
    """What of a segment is heard, in order, with its time at a rate of 1. Words that are not read take none, and are none."""
    found: list[Unit] = []
    pause_ms = 0.0
    sounds: list[Tag] = []  # since the last word
    for piece in _pieces(segment, tags, repertoire):
        pause_ms = max(pause_ms, PAUSE_MS.get(piece.level, 0.0)) if found else 0.0
        sounds += piece.sounds
        if repertoire.sounds(piece.said):
            before_ms = pause_ms + sum(sound_ms(tag.name) for tag in sounds)
            ms = sum(map(spoken_ms, repertoire.kept(piece.said).split()))
            found.append(Unit(piece.text, piece.start, piece.speaker, True, before_ms, ms))
            pause_ms, sounds = 0.0, []
    for tag in sounds:
        found.append(Unit(tag.raw, tag.start, None, False, pause_ms, sound_ms(tag.name)))
        pause_ms = 0.0
    return found


@dataclass(slots=True)
class _Spoken:
    """A segment of the turn with its audio so far."""

    segment: Segment
    units: list[Unit]
    nominal_ms: float  # audio it would get at a rate of 1
    frame_ms: float
    trail: Trail
    sounds: list[tuple[int, int] | None] = field(init=False)  # of the units, in the engine's text
    start_ms: float = 0.0  # known once the segments before it are finished
    audio_ms: float = 0.0
    sane_ms: float = 0.0  # how much of it may be kept; all of it unless the engine said otherwise
    finished: bool = False
    skipped: bool = False  # the model left it out, and nobody speaks it any more

    def __post_init__(self) -> None:
        self.sounds = [self.trail.sound(unit.start, unit.end) for unit in self.units]

    @property
    def end_ms(self) -> float:
        return self.start_ms + self.audio_ms

    @property
    def unreached(self) -> int:
        """Number of the first unit of those at its end that the model has not come to, by its own account; else how many there are.

        Without an account, and with nothing but sounds and words that are not read, there are none.
        """
        if not len(self.trail):
            return len(self.units)
        ahead = [sound is None or sound[0] > self.trail.place for sound in self.sounds]
        first = next((index + 1 for index in reversed(range(len(ahead))) if not ahead[index]), 0)
        words = [unit.is_word and sound is not None for unit, sound in zip(self.units, self.sounds, strict=True)]
        return first if any(words[first:]) else len(self.units)

    @property
    def source(self) -> AlignmentSource:
        """Who says when its words are."""
        return AlignmentSource.MODEL if len(self.trail) else AlignmentSource.ESTIMATE

    def times(self, rate: float, first: int = 0) -> Iterator[tuple[Unit, float, float]]:
        """The units from number `first` on with start and end, in order.

        As far as the model has told where it was, from that. The rest is estimated: scaled to the audio that is left if that is complete,
        else at this rate, and not before the audio there is, or without the model slower where there is more.
        """
        if not len(self.trail):
            scale = self.sane_ms / self.nominal_ms if self.finished else max(rate, self.audio_ms / self.nominal_ms)
            yield from islice(self._estimated(0, self.start_ms, scale), first, None)
            return
        at_ms = self.start_ms
        for index in range(first, len(self.units)):
            unit, sound = self.units[index], self.sounds[index]
            start_ms = self._reached_ms(sound[0]) if sound else None
            end_ms = self._reached_ms(sound[1]) if sound else None
            if start_ms is None or end_ms is None:
                yield from self._rest(index, at_ms, start_ms, rate)
                return
            start_ms = max(at_ms, start_ms)
            at_ms = max(start_ms, end_ms)
            yield unit, start_ms, at_ms

    def _rest(
        self, first: int, at_ms: float, start_ms: float | None, rate: float
    ) -> Iterator[tuple[Unit, float, float]]:
        """The units from `first` on, of which only the first one's start may be known."""
        if start_ms is not None:
            at_ms = max(at_ms, start_ms)
        skipped_ms = self.units[first].before_ms if start_ms is not None else 0.0
        if self.finished:
            nominal_ms = sum(unit.before_ms + unit.ms for unit in self.units[first:]) - skipped_ms + END_MS
            scale = max(0.0, self.start_ms + self.sane_ms - at_ms) / nominal_ms
            yield from self._estimated(first, at_ms - skipped_ms * scale, scale)
            return
        late_ms: float | None = None
        for unit, begins_ms, ends_ms in self._estimated(first, at_ms - skipped_ms * rate, rate):
            known = late_ms is None and start_ms is not None
            if late_ms is None:  # the first one is not over, so it and all others end behind the audio that there is
                late_ms = max(0.0, self.end_ms + self.frame_ms - ends_ms)
            yield unit, begins_ms if known else begins_ms + late_ms, ends_ms + late_ms

    def _estimated(self, first: int, at_ms: float, scale: float) -> Iterator[tuple[Unit, float, float]]:
        for unit in self.units[first:]:
            start_ms = at_ms + unit.before_ms * scale
            at_ms = start_ms + unit.ms * scale
            yield unit, start_ms, at_ms

    def _reached_ms(self, char: int) -> float | None:
        """When the model came to a code point of the engine's text, if that is in what may be kept."""
        frames = self.trail.reached(char)
        return None if frames is None else self.start_ms + min(frames * self.frame_ms, self.sane_ms)


class Timeline:
    """The segments of one turn with the audio they got. Not thread-safe; nothing here waits.

    Segments are added in order when they are given to the engine. Those that cannot be spoken are added as well and are complete at once;
    `update` and `finish_segment` speak of the first one that is not complete.
    """

    def __init__(self, tags: TagMode, frame_ms: float, rate: float = 1.0, repertoire: Repertoire = EVERYTHING) -> None:
        """frame_ms: duration of a codec frame. rate: audio to expect over nominal time; `rate` of the conversation's last turn."""
        self.rate = rate
        self._tags = tags
        self._repertoire = repertoire
        self._frame_ms = frame_ms
        self._spoken: list[_Spoken] = []
        self._current = 0  # first segment that is not finished
        self._told = 0  # segments whose final words were taken
        self._told_words = 0  # words taken of the one after those
        self._complete = False
        self._measured_ms = 2000 * rate  # of finished segments; starts as if two seconds had come at the rate given
        self._measured_nominal_ms = 2000.0

    @property
    def audio_ms(self) -> float:
        """Audio generated so far."""
        if not self._spoken:
            return 0.0
        return self._spoken[min(self._current, len(self._spoken) - 1)].end_ms

    @property
    def pending_ms(self) -> float:
        """Audio that is still expected for the segments added."""
        return sum(max(0.0, s.nominal_ms * self.rate - s.audio_ms) for s in self._spoken[self._current :] if s.units)

    def add_segment(self, segment: Segment) -> None:
        """The next segment, in the order of the text."""
        found = units(segment, self._tags, self._repertoire) if segment.speakable else []
        nominal_ms = sum(unit.before_ms + unit.ms for unit in found) + END_MS
        self._spoken.append(_Spoken(segment, found, nominal_ms, self._frame_ms, Trail(segment), self.audio_ms))
        self._skip_mute()

    def update(self, generated_ms: float, place: int | None = None) -> None:
        """How much audio the turn has. Less than before is allowed where a segment is generated again.

        place: code point of the text that the engine got for the open segment which the newest frame speaks, where the model tells.
        """
        if self._current < len(self._spoken):
            spoken = self._spoken[self._current]
            if generated_ms < spoken.end_ms - _SLACK_MS:
                spoken.trail = Trail(spoken.segment)
            if place is not None:
                spoken.trail.add(place)
            spoken.audio_ms = spoken.sane_ms = max(0.0, generated_ms - spoken.start_ms)

    def left_out(self) -> int | None:
        """Where in the turn's input the words begin that the open segment has not come to, if it ends now; None: it has come to all.

        Only a model that tells where it is can say so. Markup and tags in front of such a word are left out with it.
        """
        if self._current >= len(self._spoken):
            return None
        spoken = self._spoken[self._current]
        first = spoken.unreached
        if first == len(spoken.units):
            return None
        return spoken.units[first - 1].end if first else spoken.segment.start

    def part_segment(self, head: Segment, rest: Segment) -> None:
        """The open segment becomes two, at `left_out`: all the audio that it has is the head's, and the rest is open after that."""
        open_ = self._spoken[self._current]
        found = open_.units[: open_.unreached]
        start_ms, audio_ms = open_.start_ms, open_.audio_ms
        nominal_ms = sum(unit.before_ms + unit.ms for unit in found) + END_MS
        parted = _Spoken(head, found, nominal_ms, self._frame_ms, open_.trail, start_ms, audio_ms, open_.sane_ms)
        found = units(rest, self._tags, self._repertoire)
        nominal_ms = sum(unit.before_ms + unit.ms for unit in found) + END_MS
        left = _Spoken(rest, found, nominal_ms, self._frame_ms, Trail(rest))
        self._spoken[self._current : self._current + 1] = [parted, left]

    def skip_segment(self) -> None:
        """Nobody speaks the first segment that is not complete: it was not heard, unless what follows it was."""
        self._spoken[self._current].skipped = True
        self.finish_segment(0.0)

    def finish_segment(self, audio_ms: float, sane_ms: float | None = None) -> None:
        """The first segment that is not complete has got all its audio: so much.

        sane_ms: what of it is speech and may be kept; default all. Raises ValueError if every segment is complete.
        """
        if self._current >= len(self._spoken):
            raise ValueError("no segment is open")
        spoken = self._spoken[self._current]
        spoken.audio_ms = audio_ms
        spoken.sane_ms = audio_ms if sane_ms is None else min(sane_ms, audio_ms)
        spoken.finished = True
        if spoken.sane_ms > 0:
            self._measured_ms += spoken.sane_ms
            self._measured_nominal_ms += spoken.nominal_ms
            self.rate = min(max(self._measured_ms / self._measured_nominal_ms, _RATES[0]), _RATES[1])
        self._current += 1
        self._skip_mute()

    def finish(self) -> None:
        """The turn ended well: no segment follows, and text after the last word counts as heard with the last audio."""
        self._complete = True

    def words(self) -> list[Word]:
        """The words of which all audio came, in order; times of an unfinished segment are estimated from the text alone."""
        return [word for spoken in self._spoken[: self._current + 1] for word in self._words(spoken)]

    def take_words(self) -> list[Alignment]:
        """What is new since the last call: words as their audio comes, and all of a segment once more when it is complete."""
        taken: list[Alignment] = []
        while self._told < len(self._spoken):
            spoken = self._spoken[self._told]
            words = self._words(spoken, 0 if spoken.finished else self._told_words)
            if not spoken.finished:
                if words:
                    taken.append(Alignment(tuple(words), final=False, source=spoken.source))
                    self._told_words += len(words)
                break
            if words:
                taken.append(Alignment(tuple(words), final=True, source=spoken.source))
            self._told, self._told_words = self._told + 1, 0
        return taken

    def heard(self, raw: str, played_ms: float, snap: Snap, min_heard: float) -> Heard:
        """What the listener heard who heard so much audio (protocol 6.3 to 6.5). `raw`: the turn's input so far.

        It may go on behind the segments. A word counts if `min_heard` of it was played. Its audio is kept to its end with Snap.WORD,
        else up to the last whole frame that was played.
        """
        ms = min(played_ms, self.audio_ms)
        if ms <= 0:
            return Heard(0, 0, "", raw, (), 0)
        finished = self._current >= len(self._spoken)
        everything = self._complete and finished and ms >= self.audio_ms - self._frame_ms
        kept: list[HeardSegment] = []
        char_end = 0
        for spoken in self._spoken[: self._current + 1]:
            if spoken.sane_ms < self._frame_ms - _SLACK_MS:
                continue  # none of its audio may be kept, but what comes after it may have been heard
            part, end = self._heard_part(spoken, spoken.end_ms if everything else ms, snap, min_heard)
            if part is None:
                break
            kept.append(part)
            char_end = end
        char_end = self._spoken_end(raw) if everything else char_end
        kept_ms = sum(part.frames for part in kept) * self._frame_ms
        return Heard(floor(ms), char_end, raw[:char_end], raw[char_end:], tuple(kept), floor(kept_ms + _SLACK_MS))

    def _spoken_end(self, raw: str) -> int:
        """Where the text ends that somebody has heard who has heard everything."""
        end = len(raw)
        for spoken in reversed(self._spoken):
            if spoken.skipped:
                end = spoken.segment.start
            elif spoken.units:
                break
        return end

    def _heard_part(self, spoken: _Spoken, ms: float, snap: Snap, min_heard: float) -> tuple[HeardSegment | None, int]:
        """What is kept of one segment, and where its heard text ends."""
        heard_end_ms, last, count = 0.0, None, 0
        for unit, start_ms, end_ms in spoken.times(self.rate):
            if start_ms + min_heard * (end_ms - start_ms) > ms + _SLACK_MS:
                break
            heard_end_ms, last, count = end_ms, unit, count + 1
        if last is None:
            return None, 0
        sane_frames = floor((spoken.sane_ms + _SLACK_MS) / self._frame_ms)
        if spoken.finished and ms >= spoken.end_ms - _SLACK_MS:
            return HeardSegment(spoken.segment, spoken.segment.text, sane_frames, True), last.end
        if snap is Snap.FRAME:
            heard_end_ms = ms
        elif count == len(spoken.units):
            heard_end_ms = max(heard_end_ms, ms)  # in the pause after its last word
        frames = floor((heard_end_ms - spoken.start_ms + _SLACK_MS) / self._frame_ms)
        text = spoken.segment.text_until(last.end)
        return HeardSegment(spoken.segment, text, min(max(frames, 1), sane_frames), False), last.end

    def _words(self, spoken: _Spoken, first: int = 0) -> list[Word]:
        """Those from number `first` on of which all audio came; sounds stand behind the last word, so they do not count."""
        limit_ms = spoken.end_ms + _SLACK_MS
        complete = takewhile(lambda timed: timed[2] <= limit_ms, spoken.times(self.rate, first))
        return [
            Word(unit.text, floor(start_ms), floor(end_ms), unit.start, unit.end, unit.speaker)
            for unit, start_ms, end_ms in complete
            if unit.is_word
        ]

    def _skip_mute(self) -> None:
        """Segments that cannot be spoken are complete as soon as those before them are."""
        while self._current < len(self._spoken):
            spoken = self._spoken[self._current]
            spoken.start_ms = self._spoken[self._current - 1].end_ms if self._current else 0.0
            if spoken.units:
                return
            spoken.finished = True
            self._current += 1

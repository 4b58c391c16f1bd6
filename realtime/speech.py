"""One attempt to speak a turn: an engine stream, and what came out of it on its way to the outbox.

Knows which segment the engine is at, how long it was at work, and the samples and word times that wait to be sent. Does not know pacing,
text that has not become a segment, or how the turn will end. Dropped as a whole when the turn is interrupted.

Samples are encoded shortly before they are due, by whoever `encode_with` names. A server lends a thread: the engine delivers a frame of
every stream at once, and encoding them all on the event loop would keep a client's cancel waiting (0.5 ms for each). Without one it is done
at once. What has time is encoded a few frames at once, which costs less than half, and not at all where the turn is interrupted before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import floor
from typing import Protocol

from engine.api import Frame, ModelInfo, SegmentEnd, Stream
from protocol.config import AlignmentMode
from protocol.events import Alignment, AlignmentItem
from realtime.alignment import Word
from realtime.audio import AudioOutput, AudioPacket, Samples
from realtime.letters import letters
from realtime.repertoire import Repertoire
from realtime.segmenter import Segment
from realtime.turn_options import TurnOptions
from realtime.utterance import Utterance

# Frames; credit is a message to the engine's process, and 0.2 s is far below what generation runs ahead.
CREDIT_STEP = 4
READY_MS = 400.0  # of audio, encoded or about to be: several times what a busy encoder and a coalescing pacer need
PIECE_FRAMES = 4  # encoded at once, where there is time

Job = Callable[[], list[AudioPacket]]


class Encoder(Protocol):
    """Does what it is given one after the other, perhaps elsewhere and later."""

    def do(self, job: Job, done: Callable[[list[AudioPacket]], bool]) -> None:
        """Do `job`, then call `done` with its result. `done` tells whether the turn can go on where it could not before."""


class _AtOnce:
    def do(self, job: Job, done: Callable[[list[AudioPacket]], bool]) -> None:
        done(job())


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Text of a segment that the model ended before it came to it."""

    start: int  # code points of the turn's input
    end: int
    again: bool  # it is spoken next


@dataclass(slots=True, eq=False)
class _Encoding:
    """Samples on their way to packets."""

    frames: list[Samples]
    last: bool = False  # what the encoder still holds behind them comes as well
    begun: bool = False  # they were handed over, and no frame can be added
    packets: list[AudioPacket] | None = None  # None: they are not there yet


class Speech:
    """Owns the stream: cancel that when it is not wanted any more. Frames come from one task, in order."""

    def __init__(
        self, stream: Stream, model: ModelInfo, options: TurnOptions, rate: float, aligned_for: str | None
    ) -> None:
        """`rate`: how fast the turn before was spoken. `aligned_for`: the turn's id where word times are wanted."""
        self.stream = stream
        self.utterance = Utterance(options.config.tags, model.frame_s * 1000, rate, Repertoire.of(model.scripts))
        self.finished = False  # everything was generated
        self.begun_chars = 0  # code points of raw text up to the end of the segment that the engine is at
        self.busy_s = 0.0  # how long the engine could have worked for this turn
        # Since its last frame, or since it has text and credit; None: it waits for us.
        self.busy_since: float | None = None
        self._output = AudioOutput(model.sample_rate, options.fmt, options.speed, options.volume_db)
        self._packet_samples = options.fmt.packet_samples
        self.spoken_chars = 0  # code points of raw text up to the end of the last segment whose times are known
        self._encoder: Encoder = _AtOnce()
        self._waiting: deque[_Encoding | Alignment] = deque()  # in the order in which they leave
        self._unbegun: deque[_Encoding] = deque()  # of those
        self._encoded = 0  # pieces that have become packets
        self._begun_ms = 0.0  # of the turn's audio, handed over to be encoded
        self._frame_ms = model.frame_s * 1000 / options.speed  # of the turn's audio
        self._rate = options.fmt.rate
        self._packets: deque[AudioPacket] = deque()  # encoded before those
        self._told: list[Alignment] = []  # word times of audio that was encoded
        self._position = 0  # in samples at the output rate, behind the last packet that was pulled
        self._aligned_for = aligned_for
        self._by_letter = options.config.alignment is AlignmentMode.CHAR
        self._pushed: list[Segment] = []  # the engine counts them from 0
        self._ended = 0  # of those
        # Whether the model tells where in its text it is; None: that is not known yet. If it does, it gets one segment at a time, so that
        # what it leaves out of one can be spoken before the next.
        self._follows: bool | None = None
        self._held: deque[Segment] = deque()  # segments that wait for that
        self._rests: set[int] = set()  # starts of the segments that were left out once
        self._credit = 0  # frames
        self._text_ended = False
        self._finishing = False  # the engine was told that no segment follows
        self._max_frames = options.params.max_frames

    @property
    def chunks(self) -> int:
        """Segments that the engine was given."""
        return len(self._pushed)

    @property
    def has_text(self) -> bool:
        """Whether the engine has something to speak."""
        return self._ended < len(self._pushed)

    def feed(self, segment: Segment, now: float) -> None:
        """The next segment; one that cannot be spoken keeps its place between the others and costs the engine nothing."""
        self.utterance.add(segment)
        if segment.speakable:
            self._held.append(segment)
            self._push(now)

    def end_text(self, now: float) -> None:
        """No segment follows. Idempotent."""
        if not self._text_ended:
            self._text_ended = True
            self._push(now)

    def allow(self, frames: int, now: float) -> None:
        """Let the engine go on up to this frame; passed on in steps, and it only grows."""
        if frames >= self._credit + CREDIT_STEP:
            self._credit = frames
            self.stream.allow(frames)
            self._note_work(now)

    def frame(self, frame: Frame, now: float) -> bool:
        """One codec frame becomes packets. Returns whether there are more of them already."""
        encoded = self._encoded
        segment = self._pushed[frame.segment]
        if self._follows is None:
            self._follows = frame.text_at is not None
            self._push(now)
        self.begun_chars = segment.end
        self.utterance.frame(segment, frame.codes, frame.text_at)
        if self.busy_since is not None:
            self.busy_s += now - self.busy_since
            self.busy_since = now if self.utterance.frames < self._credit else None
        self._take_in(frame.samples)
        self._note_words()
        return self._encoded > encoded

    def segment_ended(self, event: SegmentEnd, now: float) -> LeftOut | None:
        """The model ended the segment, or a guard did. Returns what it left out of it, by its own account.

        That is spoken next, but not a second time, nor where the turn is as long as it may get.
        """
        segment = self._pushed[event.segment]
        left_out: LeftOut | None = None
        rest: Segment | None = None
        at = self.utterance.left_out
        if at is not None:
            again = at > segment.start and segment.start not in self._rests and not self._full
            left_out = LeftOut(at, segment.end, again)
            if at > segment.start:
                segment, rest = self.utterance.part(segment, at)
        self.begun_chars = self.spoken_chars = segment.end
        self.utterance.end(segment, event.frames)
        self._ended += 1
        if rest is not None and left_out is not None and left_out.again:
            self._rests.add(rest.start)
            self._held.appendleft(rest)
        elif rest is not None:
            self.utterance.skip()
            self.begun_chars = self.spoken_chars = rest.end
        if not self.has_text:
            self.busy_since = None
        self._push(now)
        self._note_words()
        return left_out

    def end(self) -> None:
        """The stream is over: every segment was spoken, or the turn is as long as it may get."""
        if not self.has_text and not self._held:
            self.utterance.finish()
        else:
            assert self._full, "the engine ended before its last segment"
        self._add(_Encoding([], last=True))
        self.busy_since = None
        self.finished = True

    def encode_with(self, encoder: Encoder) -> None:
        """Have the samples encoded there. Call it before the first frame; packets that come later make the turn's next call worth while."""
        self._encoder = encoder

    @property
    def exhausted(self) -> bool:
        """Whether everything that was generated has been pulled."""
        self._take_packets()
        return not self._waiting and not self._packets

    def next_span(self) -> tuple[int, int] | None:
        """Where the next packet starts and, at the latest, ends, in samples of the turn at the output rate; None: there is none yet."""
        if not self._packets and not self._packets_are_next():
            return None
        return self._position, self._position + self._packet_samples

    def pull(self) -> AudioPacket | None:
        """The next packet. None: it is not there yet, or that was the last."""
        self._tell_words()
        if not self._packets:
            return None
        packet = self._packets.popleft()
        self._position = packet.position + packet.samples
        self._encode_what_is_due()
        return packet

    def pull_words(self) -> list[Alignment]:
        """The times of the words whose audio was pulled."""
        self._tell_words()
        told, self._told = self._told, []
        return told

    def words(self) -> list[Word]:
        """The words of which all audio came, in the turn's time."""
        return [self._as_sent(word) for word in self.utterance.timeline.words()]

    @property
    def _full(self) -> bool:
        """Whether the turn is as long as it may get: the engine speaks nothing more of it."""
        return self.utterance.frames >= self._max_frames

    def _push(self, now: float) -> None:
        """Give the engine what it may have now."""
        while self._held and not self._full and (self._follows is False or not self.has_text):
            segment = self._held.popleft()
            self._pushed.append(segment)
            self.stream.push(segment.text)
            self._note_work(now)
        over = self._follows is False or not self.has_text
        if self._text_ended and not self._held and over and not self._finishing and not self._full:
            self._finishing = True
            self.stream.finish()

    def _as_sent(self, word: Word) -> Word:
        """With the times that it has in the turn's audio, which may be faster or slower than it was generated."""
        start_ms, end_ms = self._output.output_ms(word.start_ms), self._output.output_ms(word.end_ms)
        return replace(word, start_ms=floor(start_ms), end_ms=floor(end_ms))

    def _take_in(self, samples: Samples) -> None:
        """A frame's samples, behind all others. Word times in between part what is encoded at once: they are told where they belong."""
        last = self._waiting[-1] if self._waiting else None
        if isinstance(last, _Encoding) and not last.begun and len(last.frames) < PIECE_FRAMES:
            last.frames.append(samples)
        else:
            self._add(_Encoding([samples]))

    def _add(self, encoding: _Encoding) -> None:
        self._waiting.append(encoding)
        self._unbegun.append(encoding)
        self._encode_what_is_due()

    def _encode_what_is_due(self) -> None:
        while self._unbegun and self._begun_ms - self._position * 1000 / self._rate < READY_MS:
            encoding = self._unbegun.popleft()
            encoding.begun = True
            self._begun_ms += len(encoding.frames) * self._frame_ms

            job = partial(self._output.encode, encoding.frames, encoding.last)
            self._encoder.do(job, partial(self._done, encoding))

    def _done(self, encoding: _Encoding, packets: list[AudioPacket]) -> bool:
        waited = self.next_span() is None
        encoding.packets = packets
        self._encoded += 1
        return waited

    def _take_packets(self) -> None:
        """Take over what was encoded, up to the next word times and to what is not there yet."""
        waiting = self._waiting
        while waiting and not self._packets and isinstance(item := waiting[0], _Encoding) and item.packets is not None:
            self._packets.extend(item.packets)
            waiting.popleft()

    def _tell_words(self) -> None:
        """Words whose audio was pulled may be told; behind them is the next packet, if it is there."""
        self._take_packets()
        while not self._packets and self._waiting and isinstance(item := self._waiting[0], Alignment):
            self._told.append(item)
            self._waiting.popleft()
            self._take_packets()

    def _packets_are_next(self) -> bool:
        """Whether there is a packet behind nothing but word times."""
        for item in self._waiting:
            if isinstance(item, _Encoding):
                if item.packets is None:
                    return False
                if item.packets:
                    return True
        return False

    def _note_words(self) -> None:
        """Words are told with the audio they end in."""
        if self._aligned_for is None:
            return
        for told in self.utterance.timeline.take_words():
            items = tuple(
                AlignmentItem(word.text, word.start_ms, word.end_ms, word.char_start, word.char_end, word.speaker)
                for spoken in map(self._as_sent, told.words)
                for word in (letters(spoken) if self._by_letter else (spoken,))
            )
            self._waiting.append(Alignment(turn=self._aligned_for, items=items, source=told.source, final=told.final))

    def _note_work(self, now: float) -> None:
        if self.busy_since is None and self.has_text and self.utterance.frames < self._credit:
            self.busy_since = now

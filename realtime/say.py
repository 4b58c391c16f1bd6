"""`parley say`: a text, or a pipe that somebody still writes into, spoken through a server.

Knows one conversation of a client from its first delta to its last sample, and what an interruption leaves. Does not know the command line
(`realtime.arguments`), what messages look like (`protocol.client`), or how sound is written and played (`realtime.sink`). Reading text,
hearing sound and waiting for Ctrl-C are tasks of their own: none waits for another.
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Final, TextIO

import anyio
import anyio.abc

from protocol.audio_frame import Flag
from protocol.client import AudioChunk, Client, ClientError, Refused, Turn, TurnItem, connect
from protocol.commands import PlaybackState
from protocol.config import (
    MAX_FRAMES,
    AlignmentMode,
    AudioConfig,
    Clock,
    Format,
    Latency,
    OutputConfig,
    PacingConfig,
    SamplingConfig,
)
from protocol.messages import Alignment, ErrorEvent, Event, SessionClosing, SessionUpdate, TurnDone, WarningEvent
from realtime.audio import PCM_RATES_HZ
from realtime.failure import INTERRUPTED, CommandFailed, leaf
from realtime.long_text import Parts
from realtime.opus import OPUS_RATE_HZ, OpusUnavailable
from realtime.playback import NAMES, Playback, PlayerFailed, find_player
from realtime.sink import Place, Sink

PATIENCE: Final = 0.8  # share of the time after which a server ends a turn without new text
REPORT_S: Final = 0.25  # the protocol asks for a report every 200 to 500 ms
CUT_S: Final = 2.0  # for the server to tell what was heard


@dataclass(frozen=True, slots=True)
class SayOptions:
    """What was asked for."""

    url: str  # ws:// or wss://
    key: str | None
    voice: str | None
    latency: Latency
    sampling: SamplingConfig  # fields that were not given are the server's
    fmt: Format
    output: Path | None
    play: bool
    quiet: bool
    speed: float = 1.0
    volume_db: float = 0.0


def say(options: SayOptions, text: AsyncIterator[str], err: TextIO) -> int:
    """Speak; the exit code. Blocks. Raises CommandFailed, and KeyboardInterrupt before the connection stands."""

    async def run() -> int:
        return await Speaker(options, err, time.monotonic).run(text)

    try:
        return anyio.run(run)
    except (ClientError, OSError, PlayerFailed, OpusUnavailable, CommandFailed, BaseExceptionGroup) as error:
        raise explained(leaf(error), options.url) from error


def explained(error: BaseException, url: str) -> CommandFailed:
    """What a person can do about an error of a client. Raises it again where it is no fault of the world."""
    if isinstance(error, CommandFailed):
        return error
    if isinstance(error, Refused) and error.status is None:
        return CommandFailed(f"no server answers at {url}; start one with: parley serve")
    if isinstance(error, ClientError | OSError | PlayerFailed | OpusUnavailable):
        return CommandFailed(error)
    raise error


async def once(text: str) -> AsyncIterator[str]:
    """A text that is all there."""
    yield text


class Speaker:
    """One run of `say`."""

    def __init__(self, options: SayOptions, err: TextIO, now: Callable[[], float]) -> None:
        self._options = options
        self._screen = Screen(err, options.quiet)
        self._now = now  # seconds, monotonic
        self._speaking = anyio.CancelScope()
        self._interrupted = False
        self._turns: list[Turn] = []  # in the order in which they speak
        self._told = Place(0, 0.0)  # how far the listener is, as the server knows it
        self._raw = ""  # text of the last one, as far as it was sent
        self._first_text_at: float | None = None
        self._first_audio_at: float | None = None

    async def run(self, text: AsyncIterator[str]) -> int:
        """Speak it all, or up to Ctrl-C; the exit code."""
        options = self._options
        async with connect(options.url, token=options.key, on_event=self._on_event) as client:
            sink = await self._configured(client)
            try:
                async with anyio.create_task_group() as tasks:
                    parts = Parts()
                    tasks.start_soon(self._watch, tasks)
                    tasks.start_soon(parts.fill, text)
                    tasks.start_soon(self._follow, sink)
                    with self._speaking:
                        await self._speak(client, parts, sink)
                    if self._interrupted:
                        await self._cut(client, sink)
                    tasks.cancel_scope.cancel()
            finally:
                self._screen.end_line()
                await sink.close()
        if self._interrupted:
            return INTERRUPTED
        if not self._turns:
            raise CommandFailed("there is no text to speak")
        self._screen.line(self._summary())
        return 0

    async def _configured(self, client: Client) -> Sink:
        options = self._options
        rate = client.session.sample_rate if client.session.sample_rate in PCM_RATES_HZ else PCM_RATES_HZ[-1]
        if options.fmt is Format.OPUS:
            rate = OPUS_RATE_HZ
        player = find_player(rate) if options.play else None
        if options.play and player is None:
            raise CommandFailed(f"none of these players is installed: {NAMES}; write a file with -o FILE")
        sampling = options.sampling
        if "max_frames" not in sampling.model_fields_set:  # a long text is cut into turns, not cut off
            sampling = SamplingConfig.model_validate(
                {**sampling.model_dump(exclude_unset=True), "max_frames": MAX_FRAMES}
            )
        fields: dict[str, object] = {
            "audio": AudioConfig(output=OutputConfig(format=options.fmt, rate=rate)),
            "pacing": PacingConfig(clock=Clock.NONE if player is None else Clock.ACK),
            "latency": options.latency,
            "speed": options.speed,
            "volume_db": options.volume_db,
            "alignment": AlignmentMode.NONE if options.quiet else AlignmentMode.WORD,
            "sampling": sampling,
        }
        if options.voice is not None:
            fields["voice"] = options.voice
        updated = await client.update(SessionUpdate.model_validate(fields))
        playback = await Playback.start(player, rate) if player is not None else None
        return Sink(options.fmt, rate, updated.pre_skip, options.output, playback, self._now)

    async def _watch(self, tasks: anyio.abc.TaskGroup) -> None:
        """The first Ctrl-C stops the speech, the second everything."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                if self._interrupted:
                    tasks.cancel_scope.cancel()
                self._interrupted = True
                self._speaking.cancel()

    async def _speak(self, client: Client, parts: Parts, sink: Sink) -> None:
        """Turn after turn until the text ends; then wait for the listener."""
        while await parts.more():
            if self._first_text_at is None:
                self._first_text_at = self._now()
            turn = client.speak(self._deltas(parts, PATIENCE * client.session.limits.turn_idle_ms / 1000))
            self._turns.append(turn)
            sink.begin()
            async for item in turn:
                await self._take(item, sink)
        await sink.play_out()
        await self._report(len(self._turns), 0.0)

    async def _follow(self, sink: Sink) -> None:
        """Report how far the listener is. A file is heard as it is written, which the server takes for granted. Never returns."""
        while True:
            await anyio.sleep(REPORT_S)
            place = sink.place()
            if self._options.play and place is not None and not self._interrupted:
                await self._report(place.turn, place.ms)

    async def _report(self, number: int, ms: float) -> None:
        """Those before turn `number` were heard to their ends, and so much of that."""
        before = self._turns[self._told.turn : number]
        self._told = Place(number, self._told.ms if number == self._told.turn else 0.0)
        for turn in before:
            if turn.done is not None and turn.done.sent_ms:
                await turn.played(turn.done.audio_ms, PlaybackState.ENDED)
        if ms >= self._told.ms + 1:
            self._told = Place(number, ms)
            await self._turns[number].played(floor(ms))

    async def _deltas(self, parts: Parts, patience_s: float) -> AsyncIterator[str]:
        """The text of one turn. Where the writer pauses for too long it ends here, before the server ends it; the rest is another's."""
        self._raw = ""
        self._screen.shown = 0
        while True:
            more = False
            with anyio.move_on_after(patience_s):
                more = await parts.more()
            if not more:
                return
            part = parts.take()
            self._raw += part.text
            yield part.text
            if part.ends_turn:
                return

    async def _take(self, item: TurnItem, sink: Sink) -> None:
        match item:
            case AudioChunk():
                if self._first_audio_at is None:
                    self._first_audio_at = self._now()
                await sink.packet(item.payload, Flag.LAST in item.flags)
            case Alignment():
                self._screen.words(self._raw, max((word.char_end for word in item.items), default=0))
            case WarningEvent():
                self._screen.line(f"parley: warning: {item.message}")
            case TurnDone():
                await sink.end(item.audio_ms)
                self._screen.words(self._raw, len(self._raw))

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ErrorEvent):
            self._screen.line(f"parley: {event.code}: {event.message}")
        elif isinstance(event, SessionClosing):
            self._screen.line(f"parley: {event.message or event.reason}")

    async def _cut(self, client: Client, sink: Sink) -> None:
        """Silence first; then tell the server how much was heard, and the person what that was."""
        place = sink.place()
        await sink.hush()
        self._screen.end_line()
        if place is None:
            return
        heard, *unheard = self._turns[place.turn :]
        with anyio.move_on_after(CUT_S):
            await heard.cancel(played_ms=round(place.ms))
            for turn in unheard:
                await turn.cancel(played_ms=0)
            await client.ping()  # answered after the cancels: what they changed has come by then
        if heard.heard is not None:
            self._screen.line(f"heard: {heard.heard.text.strip()}")
            self._screen.line(f"not heard: {heard.heard.remaining.strip()}")

    def _summary(self) -> str:
        dones = [turn.done for turn in self._turns if turn.done is not None]
        spoken_s = sum(done.audio_ms for done in dones) / 1000
        if self._first_audio_at is None or self._first_text_at is None or not spoken_s:
            return "nothing in that text can be spoken"
        timed = [(done.metrics.rtf, done.audio_ms) for done in dones if done.metrics.rtf is not None and done.audio_ms]
        figures = [
            f"first audio after {1000 * (self._first_audio_at - self._first_text_at):.0f} ms",
            f"{spoken_s:.2f} s of speech",
        ]
        if timed:
            figures.append(f"real-time factor {sum(rtf * ms for rtf, ms in timed) / sum(ms for _, ms in timed):.2f}")
        if self._options.output is not None:
            figures.append(str(self._options.output))
        return "; ".join(figures)


class Screen:
    """What a person sees on stderr: the text as it is spoken, on lines of its own, and notes between."""

    def __init__(self, err: TextIO, quiet: bool) -> None:
        self.shown = 0  # characters of the turn's text
        self._err = err
        self._quiet = quiet
        self._open = False  # the line has no end yet

    def words(self, raw: str, until: int) -> None:
        """Show the text up to this character; what was shown stays."""
        fresh = raw[self.shown : until]
        self.shown = max(self.shown, until)
        self._write(_harmless(fresh))

    def line(self, text: str) -> None:
        """Show a line of its own."""
        self.end_line()
        self._write(_harmless(text) + "\n")

    def end_line(self) -> None:
        """Idempotent."""
        if self._open:
            self._write("\n")

    def _write(self, text: str) -> None:
        if text and not self._quiet:
            self._err.write(text)
            self._err.flush()
            self._open = not text.endswith("\n")


def _harmless(text: str) -> str:
    """Without what a terminal would obey: a language model wrote this."""
    return "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in text)

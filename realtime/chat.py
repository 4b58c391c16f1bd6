"""`parley chat`: a talk with a language model that is heard while it is written, and can be interrupted by typing.

Knows the order of a talk, and that the language model remembers of its own answers what was heard, nothing else. Does not know how it is
reached (`realtime.llm`), how typing is noticed (`realtime.keyboard`), or how sound is played (`realtime.listener`).
"""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Final, TextIO

import anyio
import anyio.abc

from protocol.audio_frame import Flag
from protocol.client import AudioChunk, Client, ClientError, ServerError, SessionEnded, Turn, TurnItem, connect
from protocol.commands import PlaybackState
from protocol.config import (
    MAX_APPEND_CHARS,
    AlignmentMode,
    AudioConfig,
    Clock,
    Format,
    OutputConfig,
    PacingConfig,
)
from protocol.messages import (
    Alignment,
    ErrorEvent,
    Event,
    SessionClosing,
    SessionCreated,
    SessionUpdate,
    TurnDone,
    WarningEvent,
)
from realtime.audio import PCM_RATES_HZ
from realtime.failure import INTERRUPTED, CommandFailed, leaf
from realtime.keyboard import Keyboard
from realtime.listener import Listener
from realtime.llm import LanguageModel, LlmError, Message
from realtime.playback import NAMES, Player, PlayerFailed, find_player
from realtime.say import Screen, explained
from realtime.wavefile import WaveWriter

REPORT_S: Final = 0.25  # the protocol asks for a report every 200 to 500 ms
FOLLOW_S: Final = 0.05  # how exactly the words on the screen follow the sound
PROMPT: Final = "> "
SYSTEM: Final = (
    "You are talking with somebody who hears you. Answer as one speaks: in a few plain sentences, without lists, headings, code or emoji. "
    "Where an earlier answer of yours breaks off, you were interrupted there, and the rest was not heard."
)


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What was asked for."""

    url: str  # of Parley, ws:// or wss://
    key: str | None
    voice: str | None
    llm_url: str
    llm_model: str | None  # None: the only one that there is
    llm_key: str | None
    system: str  # what the language model is told first; may be empty
    output: Path | None  # what was heard is written there
    play: bool | None  # through the speakers; None: if there are any


class Talk:
    """What was said so far, as the language model is to know it."""

    def __init__(self, system: str) -> None:
        self.messages: list[Message] = [{"role": "system", "content": system}] if system else []

    def asked(self, text: str) -> None:
        """The person said this."""
        self.messages.append({"role": "user", "content": text})

    def answered(self, heard: str) -> None:
        """This much of the answer was heard. What was not heard was not said."""
        if heard.strip():
            self.messages.append({"role": "assistant", "content": heard.strip()})


def chat(options: ChatOptions, keyboard: Keyboard, out: TextIO) -> int:
    """Talk until the lines end; the exit code. Blocks. Raises CommandFailed."""

    async def run() -> int:
        async with LanguageModel(options.llm_url, options.llm_model, options.llm_key) as model:
            return await Chat(options, model, keyboard, out, time.monotonic).run()

    try:
        return anyio.run(run)
    except (ClientError, LlmError, OSError, PlayerFailed, CommandFailed, BaseExceptionGroup) as error:
        found = leaf(error)
        raise (CommandFailed(found) if isinstance(found, LlmError) else explained(found, options.url)) from error


class Chat:
    """One talk."""

    def __init__(
        self, options: ChatOptions, model: LanguageModel, keyboard: Keyboard, out: TextIO, now: Callable[[], float]
    ) -> None:
        self.talk: Final = Talk(options.system)
        self._options = options
        self._model = model
        self._keyboard = keyboard
        self._screen = Screen(out, quiet=False)
        self._out = out
        self._now = now  # seconds, monotonic
        self._rate = PCM_RATES_HZ[-1]
        self._player: Player | None = None
        self._wave: WaveWriter | None = None
        self._answering: anyio.CancelScope | None = None  # cancel it, and the answer stops

    async def run(self) -> int:
        """Until the lines end, or Ctrl-C where nobody speaks; the exit code."""
        options = self._options
        name = await self._model.name()
        async with connect(options.url, token=options.key, on_event=self._on_event) as client:
            self._player = self._find_player(client)
            self._screen.line(f"parley: {name} listens" + (", type to interrupt" if self._keyboard.is_terminal else ""))
            await self._configure(client)
            ended = False
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._watch, tasks)
                    await self._talk(client)
                    ended = True
                    tasks.cancel_scope.cancel()
            finally:
                self._screen.end_line()
                if self._wave is not None:
                    self._wave.close()
        return 0 if ended else INTERRUPTED

    def _find_player(self, client: Client) -> Player | None:
        if client.session.sample_rate in PCM_RATES_HZ:
            self._rate = client.session.sample_rate
        player = find_player(self._rate) if self._options.play is not False else None
        if player is None:
            if self._options.play:
                raise CommandFailed(f"none of these players is installed: {NAMES}")
            why = "" if self._options.play is False else f" (none of these is installed: {NAMES})"
            where = (
                f"what is heard is written to {self._options.output}" if self._options.output else "it is only timed"
            )
            self._screen.line(f"parley: nothing is played{why}; {where}")
        return player

    async def _configure(self, client: Client) -> None:
        fields: dict[str, object] = {
            "audio": AudioConfig(output=OutputConfig(format=Format.PCM_S16LE, rate=self._rate)),
            "pacing": PacingConfig(clock=Clock.ACK),
            "alignment": AlignmentMode.WORD,
        }
        if self._options.voice is not None:
            fields["voice"] = self._options.voice
        await client.update(SessionUpdate.model_validate(fields))

    async def _watch(self, tasks: anyio.abc.TaskGroup) -> None:
        """Ctrl-C stops an answer; where there is none, the talk."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                if self._answering is None or number == signal.SIGTERM:
                    tasks.cancel_scope.cancel()
                else:
                    self._answering.cancel()

    async def _talk(self, client: Client) -> None:
        while True:
            if self._keyboard.is_terminal:
                self._screen.end_line()
                self._out.write(PROMPT)
                self._out.flush()
            line = await self._keyboard.line()
            if line is None:
                return
            if not line.strip():
                continue
            self.talk.asked(line.strip())
            try:
                for at in range(0, len(line.strip()), MAX_APPEND_CHARS):
                    await client.append_context(line.strip()[at : at + MAX_APPEND_CHARS])
                await self._answer(client)
            except (LlmError, ServerError, SessionEnded) as error:  # of this answer; the next one may go well
                self._screen.line(f"parley: {error}")

    async def _answer(self, client: Client) -> None:
        """Have the model answer aloud, and remember what of it was heard."""
        listener = await Listener.start(self._player, Format.PCM_S16LE, self._rate, 0, self._now)
        answer = _Answer(listener, self._screen)
        turn = client.speak(answer.written(self._model, self.talk.messages))
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(answer.follow, turn)
                tasks.start_soon(self._interrupt_by_typing)
                with anyio.CancelScope() as self._answering:
                    async for item in turn:
                        await answer.take(item)
                    await listener.play_out()
                    answer.show()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as errors:
            failure = leaf(errors)
            if not isinstance(failure, LlmError | ServerError | SessionEnded):
                raise
        finally:
            interrupted, self._answering = self._answering is not None and self._answering.cancel_called, None
            with anyio.CancelScope(shield=True):
                await listener.hush()
        await self._remember(client, turn, listener, interrupted)
        if failure is not None:
            raise failure

    async def _interrupt_by_typing(self) -> None:
        await self._keyboard.key()
        if self._answering is not None:
            self._answering.cancel()

    async def _remember(self, client: Client, turn: Turn, listener: Listener, interrupted: bool) -> None:
        self._keep(listener)
        self._screen.end_line()
        if interrupted:
            heard = await client.interrupt(turn, played_ms=round(listener.heard_ms))
        else:
            if turn.done is not None:
                await turn.played(round(listener.heard_ms), PlaybackState.ENDED)
            await client.ping()  # a turn whose text broke off is cancelled; by then we know what was heard of it
            heard = turn.heard
        self.talk.answered(heard.text if heard is not None else "")
        if heard is not None and heard.remaining.strip():
            self._screen.line(f"parley: {len(heard.remaining)} characters were not heard and are forgotten")

    def _keep(self, listener: Listener) -> None:
        if self._options.output is not None:
            self._wave = self._wave or WaveWriter(self._options.output, self._rate)
            self._wave.write(listener.heard())

    def _on_event(self, event: Event) -> None:
        if isinstance(event, ErrorEvent):
            self._screen.line(f"parley: {event.code}: {event.message}")
        elif isinstance(event, SessionClosing):
            self._screen.line(f"parley: {event.message or event.reason}")
        elif isinstance(event, SessionCreated) and not event.resumed:
            self._screen.line("parley: another session has begun; the voice does not remember this talk")


class _Answer:
    """One answer on its way to the listener: its text appears as it is heard."""

    def __init__(self, listener: Listener, screen: Screen) -> None:
        self._listener = listener
        self._screen = screen
        self._raw = ""
        self._words: list[tuple[int, int]] = []  # (end_ms, char_end), as they came
        screen.shown = 0

    async def written(self, model: LanguageModel, messages: list[Message]) -> AsyncIterator[str]:
        """The answer as the model writes it. Raises LlmError."""
        async with aclosing(model.answer(messages)) as deltas:
            async for delta in deltas:
                self._raw += delta
                yield delta

    async def take(self, item: TurnItem) -> None:
        match item:
            case AudioChunk():
                await self._listener.packet(item.payload, Flag.LAST in item.flags)
            case Alignment():
                self._words += [(word.end_ms, word.char_end) for word in item.items]
            case WarningEvent():
                self._screen.line(f"parley: warning: {item.message}")
            case TurnDone():
                await self._listener.end(item.audio_ms)
                self._words.append((item.audio_ms, len(item.heard.text)))

    async def follow(self, turn: Turn) -> None:
        """Show the words as they are heard, and report how far that is. Never returns."""
        wait_s, told_ms = 0.0, 0
        while True:
            await anyio.sleep(FOLLOW_S)
            wait_s += FOLLOW_S
            self.show()
            heard_ms = floor(self._listener.heard_ms)
            if heard_ms > told_ms and wait_s >= REPORT_S:  # behind a gap it may seem to fall by what the player holds
                await turn.played(heard_ms)
                wait_s, told_ms = 0.0, heard_ms

    def show(self) -> None:
        """The words that were heard."""
        heard_ms = self._listener.heard_ms
        self._screen.words(self._raw, max((end for at, end in self._words if at <= heard_ms), default=0))

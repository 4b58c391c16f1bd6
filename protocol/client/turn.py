"""One utterance, as the client that speaks it sees it.

Knows what waits to be sent, what came and was not read, and how it ended. Does not know other turns, nor the socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import anyio
import anyio.lowlevel

from protocol.audio_frame import Flag
from protocol.client.calls import Calls
from protocol.client.errors import ClientError, Overrun, ServerError
from protocol.client.link import Link
from protocol.commands import (
    Command,
    Mark,
    PlaybackState,
    PlaybackUpdate,
    Scope,
    TextAppend,
    TextFlush,
    TurnCancel,
    TurnEnd,
    TurnPause,
    TurnResume,
    TurnStart,
)
from protocol.errors import ErrorCode
from protocol.events import (
    Alignment,
    ErrorEvent,
    Heard,
    LiveTurn,
    MarkEvent,
    Status,
    TurnDone,
    TurnPaused,
    TurnResumed,
    TurnStarted,
    WarningEvent,
)
from protocol.surrogates import join


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """One packet of a turn."""

    turn: str
    n: int
    position: int  # first sample within the turn, at the session's output rate
    payload: bytes  # one Opus packet, or whole samples
    flags: Flag


TurnEvent = TurnStarted | Alignment | MarkEvent | TurnPaused | TurnResumed | WarningEvent | TurnDone
TurnItem = TurnEvent | AudioChunk
_Outgoing = str | TextFlush | Mark | TurnEnd
Deltas = str | Iterable[str] | AsyncIterable[str]


class Turn:
    """One utterance. Iterate it, in one task, over its events and audio; the last item is its TurnDone.

    The iteration raises ServerError for a turn that failed or was refused, what its deltas raised, Overrun, or ConnectionLost.
    """

    def __init__(self, link: Link, calls: Calls, start: TurnStart) -> None:
        """`Client.speak` makes it."""
        assert start.turn is not None, "the client names its turns"
        self.id: Final[str] = start.turn
        self.done: TurnDone | None = None  # once it was received, perhaps before it was read
        self.heard: Heard | None = None  # of `done`, or of what the server told since then
        self._link = link
        self._calls = calls
        self._start = start
        self._opened = False  # turn.start was sent
        self._session = anyio.Event()  # not set: it waits for the session that follows this one
        self._session.set()
        self._cancelling: TurnCancel | None = None  # was asked for
        self._outgoing: deque[_Outgoing] = deque()
        self._sent_items: list[_Outgoing] = []  # what left, until the server's turn.done: a socket may lose it
        self._waiting_chars = 0  # in _outgoing
        self._half = ""  # of a surrogate pair that the last append cut
        self._closed = False  # no text is taken any more
        self._withdrawn = False  # nor is what waits sent
        self._to_send = anyio.Event()  # set: something is in _outgoing, or was withdrawn
        self._sent = anyio.Event()  # set: there may be room for more text
        self._feeding = anyio.CancelScope()
        self._silent = False  # audio is dropped
        self._inbox: deque[TurnItem] = deque()
        self._arrived = anyio.Event()
        self._error: ErrorEvent | None = None  # why the turn will be failed
        self._failure: Exception | None = None  # raised when the inbox has been read

    async def append(self, text: str) -> None:
        """More text, verbatim; may be cut anywhere. Waits while more than a message of it is on its way.

        Raises what ended the turn if something did; text after `end`, `cancel` or the turn's end is dropped, as the server would.
        """
        if self._failure is not None:
            raise self._failure
        text, self._half = join(self._half, text)
        if text and not self._closed:
            self._put(text)
            self._waiting_chars += len(text)
        while not self._closed and self._waiting_chars > self._link.limits.append_chars:
            self._sent = anyio.Event()
            await self._sent.wait()

    def flush(self) -> None:
        """Let the server speak what was appended so far; the turn stays open."""
        if not self._closed:
            self._put(TextFlush(turn=self.id, event_id=f"{self.id}:flush"))

    def mark(self, name: str) -> None:
        """Have `mark` events tell when the speech comes to the text that follows."""
        if not self._closed:
            self._put(Mark(turn=self.id, name=name, event_id=f"{self.id}:mark"))

    def end(self) -> None:
        """No more text. Deltas that have not come yet are not waited for."""
        self._feeding.cancel()
        if not self._closed:
            self._put(TurnEnd(turn=self.id, event_id=f"{self.id}:end"))
            self._closed = True
            self._sent.set()

    async def cancel(self, played_ms: int | None = None, reason: str = "user") -> None:
        """Stop it; its TurnDone still comes, its unread audio does not. May be called again, and after the end.

        Stop your own sound first and say how much of the turn was heard: that is what the server remembers. A turn that is done but still
        plays is cut too, and `heard` changes.
        """
        if self._failure is not None:
            return
        self._hush()
        event_id = f"{self.id}:cancel"
        await self._withdraw(
            TurnCancel(turn=self.id, scope=Scope.TURN, played_ms=played_ms, reason=reason, event_id=event_id)
        )

    async def pause(self, played_ms: int | None = None) -> TurnPaused:
        """Stop for now, perhaps for good; stop your own sound first. Raises ServerError where there is nothing to pause."""
        return await self._calls.call(TurnPause(turn=self.id, played_ms=played_ms), TurnPaused)

    async def resume(self, from_ms: int | None = None) -> TurnResumed:
        """Go on after a pause. With from_ms, audio from that word on comes again, for a client that dropped what it had."""
        return await self._calls.call(TurnResume(turn=self.id, from_ms=from_ms), TurnResumed)

    async def played(self, ms: int, state: PlaybackState = PlaybackState.PLAYING) -> None:
        """Report how much the listener has heard: every 200 to 500 ms, and when playing starts, stalls and ends. It never falls.

        A report that a lost socket swallows is not made up for: the next one says more.
        """
        await self._link.post(PlaybackUpdate(turn=self.id, played_ms=ms, state=state))

    async def finish(self) -> TurnDone:
        """Read to the end, and drop what is read. Raises what the iteration raises."""
        async for _ in self:
            pass
        assert self.done is not None, "an iteration that ends without raising ends with turn.done"
        return self.done

    def __aiter__(self) -> AsyncIterator[TurnItem]:
        return self

    async def __anext__(self) -> TurnItem:
        while not self._inbox:
            if self._failure is not None:
                raise self._failure
            if self.done is not None:
                raise StopAsyncIteration
            self._arrived = anyio.Event()
            await self._arrived.wait()
        item = self._inbox.popleft()
        if isinstance(item, AudioChunk):
            self._link.unread -= len(item.payload)
        return item

    async def _run(self, deltas: Deltas | None) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._pump)
            if deltas is not None:
                await self._feed(deltas)

    async def _feed(self, deltas: Deltas) -> None:
        failure: Exception | None = None
        with self._feeding:
            try:
                await self._append_all(deltas)
            except Exception as error:  # supervisor of the caller's iterator: the turn raises what it raised
                failure = error
        if failure is not None:
            self._abandon(failure)
        elif not self._feeding.cancel_called:
            self.end()

    async def _append_all(self, deltas: Deltas) -> None:
        if isinstance(deltas, str):
            await self.append(deltas)
        elif isinstance(deltas, AsyncIterable):
            try:
                async for delta in deltas:
                    await self.append(delta)
            finally:
                if isinstance(deltas, AsyncGenerator):
                    await deltas.aclose()
        else:
            for delta in deltas:
                await self.append(delta)
                await anyio.lowlevel.checkpoint()

    async def _pump(self) -> None:
        """The one task that sends the turn's text, in order, as much at once as waits."""
        with suppress(ClientError):  # which the client has told every turn
            while not self._withdrawn:
                await self._session.wait()
                await self._link.until_open()
                await self._open()
                await self._to_send.wait()
                if self._waits:
                    continue
                first = self._outgoing[0] if self._outgoing else None
                if isinstance(first, str):
                    await self._link.send_text(self._next_text)
                elif first is not None and self._link.is_open:
                    self._sent_items.append(self._outgoing.popleft())
                    await self._link.post(first)
                if not self._outgoing and not self._withdrawn:
                    self._to_send = anyio.Event()

    def _put(self, item: _Outgoing) -> None:
        self._outgoing.append(item)
        self._to_send.set()

    def _next_text(self) -> TextAppend | None:
        """All text up to the next command, as far as one message holds it; None if it was withdrawn meanwhile."""
        room, parts = self._link.limits.append_chars, list[str]()
        while room and self._outgoing and isinstance(item := self._outgoing[0], str):
            self._outgoing.popleft()
            parts.append(item[:room])
            if item[room:]:
                self._outgoing.appendleft(item[room:])
            room -= len(parts[-1])
        text = "".join(parts)
        self._waiting_chars -= len(text)
        self._sent_items.append(text)
        self._sent.set()
        return TextAppend(turn=self.id, text=text, event_id=f"{self.id}:text") if text else None

    async def _open(self) -> None:
        if not self._opened and self._link.is_open and not self._waits:
            self._opened = True
            await self._link.post(self._start)

    async def _withdraw(self, cancel: TurnCancel) -> None:
        """Take the turn back. Without a socket, the server is told as soon as there is one."""
        self._cancelling = cancel
        await self._open()
        if not self._waits:
            await self._link.post(cancel)

    @property
    def _waits(self) -> bool:
        """Whether it waits for the session that follows this one."""
        return not self._session.is_set()

    def _wait_for_session(self) -> None:
        """The server takes no turn any more in this session. Idempotent."""
        if self._session.is_set():
            self._session = anyio.Event()

    async def _give_up(self) -> None:
        with suppress(ClientError):
            await self._withdraw(TurnCancel(turn=self.id, scope=Scope.TURN))

    def _say_again(self, known: LiveTurn | None) -> list[Command]:
        """The session goes on over another socket, and this is what arrived of the turn; None: nothing did. What to say before its text."""
        again: list[Command] = [] if known is not None else [self._start]
        self._opened = True
        self._session.set()
        chars = known.text_chars if known is not None else 0
        at, rest = 0, list[_Outgoing]()
        for item in self._sent_items:
            if isinstance(item, str):
                at += len(item)
                if at > chars:
                    rest.append(item[max(0, len(item) - (at - chars)) :])
            # What stood just there may have arrived, too: to flush twice does no harm, and a mark is told twice.
            elif at >= chars and not (isinstance(item, TurnEnd) and known is not None and known.text_ended):
                rest.append(item)
        if not self._withdrawn:
            self._sent_items = ["".join(item for item in self._sent_items if isinstance(item, str))[:chars]]
            self._outgoing.extendleft(reversed(rest))
            self._waiting_chars += sum(len(item) for item in rest if isinstance(item, str))
            self._to_send.set()
        return again + ([self._cancelling] if self._cancelling is not None else [])

    def _close_text(self) -> None:
        """Take no more text and send none."""
        self._feeding.cancel()
        self._closed = self._withdrawn = True
        self._outgoing.clear()
        self._waiting_chars = 0
        self._to_send.set()
        self._sent.set()

    def _hush(self) -> None:
        """No text, and no audio either."""
        self._close_text()
        self._silent = True
        kept = [item for item in self._inbox if not isinstance(item, AudioChunk)]
        self._link.unread -= sum(len(item.payload) for item in self._inbox if isinstance(item, AudioChunk))
        self._inbox = deque(kept)

    def _hear(self, chunk: AudioChunk) -> None:
        if self._silent:
            return
        self._link.unread += len(chunk.payload)
        self._inbox.append(chunk)
        if self._link.unread > self._link.unread_limit:
            self._abandon(Overrun(self._link.unread))
        self._arrived.set()

    def _learn(self, event: TurnEvent) -> None:
        self._inbox.append(event)
        self._arrived.set()
        if isinstance(event, TurnDone):
            self._close_text()
            self._sent_items.clear()
            self.done, self.heard = event, event.heard
            if event.status is Status.FAILED and self._failure is None:
                code, message = ErrorCode.SYNTHESIS_FAILED, event.reason or "the turn failed"
                self._failure = ServerError(self._error or ErrorEvent(code=code, message=message, turn=self.id))

    def _refuse(self, event: ErrorEvent) -> None:
        """An error about this turn: of a command, which then was not carried out, or of the turn, whose turn.done follows."""
        if event.event_id is None:
            self._error = event
        elif event.event_id == self._start.event_id:
            self._fail(ServerError(event))
        else:
            self._abandon(ServerError(event))

    def _abandon(self, failure: Exception) -> None:
        """Nobody will read it."""
        self._fail(failure)
        self._hush()
        self._link.spawn(self._give_up)

    def _fail(self, failure: Exception) -> None:
        """Nothing more is expected of this turn. The first reason stays."""
        self._close_text()
        self._failure = self._failure or failure
        self._arrived.set()

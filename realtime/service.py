"""What all connections of one process share: the engine, the voices, the gate, and whose sessions there are.

Knows whether the engine has shown that it can speak, how many may come in, and that the server is about to end. Does not know requests or
what a session does.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Final

import anyio
import anyio.abc

from engine.api import Conversation, Engine, EngineError, Frame, SamplingParams, Voice
from protocol.errors import ErrorCode, ProtocolError
from realtime.admission import AdmittingEngine
from realtime.auth import Gate
from realtime.client_secrets import ClientSecrets, new_session_id
from realtime.entrance import Doorkeeper, Shown
from realtime.live_session import LiveSession
from realtime.references import References
from realtime.sessions import Sessions
from realtime.settings import Settings
from realtime.shared import Alone, Count, Shared
from realtime.voice_encoding import VoiceEncoder
from realtime.voices import DEFAULT, VoiceStore
from realtime.workshop import Workshop

log = logging.getLogger("parley.server")

WARM_UP: Final = "Hello there."
RETRY_S: Final = 1.0
KNOWN_EVERY_S: Final = 0.5
CROWDED_RETRY_MS: Final = 5_000  # when a full or ending server is worth another try


class Service:
    """One per process."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        clock: Callable[[], float],
        unix_time: Callable[[], float],
        *,
        shared: Shared | None = None,
    ) -> None:
        """`shared`: with the other processes of the server, whose `clock` is the same; None: there are no others."""
        self.settings = settings
        self.shared: Shared = Alone() if shared is None else shared
        self.engine = engine
        self.admitting = AdmittingEngine(engine, self._late_s, clock)  # the same for turns that somebody asks for
        self.clock = clock  # seconds, monotonic: the event loop's own, so that its timers and ours agree
        self.unix_time = unix_time  # seconds: only to be told
        self.gate = Gate([key.get_secret_value() for key in settings.keys], settings.allowed_origins)
        self.voices = VoiceStore(settings.voices_dir, engine.info.codebooks, engine.info.codec_id)
        self.encoder = VoiceEncoder(self.voices, engine.encode)
        self.references = References(settings.reference_paths, settings.reference_urls)
        self.sessions = Sessions[LiveSession](settings.max_sessions, self.shared)
        self.client_secrets = ClientSecrets(settings.client_secret_s, self.shared)
        self.door = Doorkeeper(self.gate, self.client_secrets)
        self.sockets = 0  # that have a session, or are told the last of it
        self._tasks: anyio.abc.TaskGroup | None = None  # of the sessions, while the server runs
        self._workshop: Workshop | None = None  # likewise
        self._warm = anyio.Event()
        self._cold = anyio.Event()  # set: the engine must show again that it can speak
        self._draining_until: float | None = None

    @property
    def ready(self) -> bool:
        """Whether a turn that came now would be spoken: the engine has spoken since it (re)started, and the server stays."""
        return self._warm.is_set() and self._draining_until is None

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        return self._draining_until is not None

    def refusal(self) -> ProtocolError | None:
        """Why nobody can come in now, or None."""
        if self._draining_until is not None:
            left_ms = max(0, round((self._draining_until - self.clock()) * 1000))
            text = "the server is restarting"
            return ProtocolError.fatal_error(ErrorCode.NO_CAPACITY, text, retry_after_ms=left_ms + CROWDED_RETRY_MS)
        return None if self.sessions.has_room else self._crowded()

    def refusal_of_strangers(self) -> ProtocolError | None:
        """Why nobody can come in now who has not shown a key yet, or None. Whoever has one is not kept out by those who have none."""
        there = self.shared.total(Count.UNAUTHENTICATED)
        if there < self.settings.max_unauthenticated:
            return None
        text = f"{there} connections have not shown a key yet"
        return ProtocolError.fatal_error(ErrorCode.TOO_MANY_SESSIONS, text, retry_after_ms=CROWDED_RETRY_MS)

    @contextlib.contextmanager
    def stranger(self) -> Iterator[None]:
        """While a socket has not shown a key yet. `refusal_of_strangers` was asked before."""
        # Without a limit: some are counted whom the handshake did not ask for a key, and whoever came in is not refused any more.
        self.shared.take(Count.UNAUTHENTICATED, sys.maxsize)
        try:
            yield
        finally:
            self.shared.give_back(Count.UNAUTHENTICATED)

    def _crowded(self) -> ProtocolError:
        text = f"there are {self.sessions.total} sessions: max_sessions={self.settings.max_sessions}"
        return ProtocolError.fatal_error(ErrorCode.TOO_MANY_SESSIONS, text, retry_after_ms=CROWDED_RETRY_MS)

    async def open_session(self, shown: Shown) -> LiveSession:
        """A new session that runs until it is over. Raises ProtocolError where there is no room for it any more."""
        assert self._tasks is not None, "sessions run while the server does"
        refusal = self.refusal()
        if refusal is not None:  # somebody else took the last place meanwhile, or the server began to end
            raise refusal
        if not self.sessions.make_room():
            raise self._crowded()
        by_secret = shown.session_id is not None
        session = LiveSession(shown.session_id or new_session_id(), shown.owner, by_secret, self)
        try:
            await self._tasks.start(session.run)
        except BaseException:  # cancelled before it ran: nobody else would end it
            session.end()
            raise
        return session

    async def start(self, task: Callable[..., Coroutine[object, object, None]]) -> None:
        """Run something that is kept as long as the server runs; returns once it says so (`task_status`). It handles its own failures."""
        assert self._tasks is not None, "sessions run while the server does"
        await self._tasks.start(task)

    async def run(self) -> None:
        """Keep the engine warm, voices encoded, and sessions alive. Never returns."""
        # Where there are siblings each has few listeners: see `realtime.workshop`.
        self._workshop = Workshop(self.clock, threads=0 if self.shared.count > 1 else None)
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                if self.shared.count > 1:
                    tasks.start_soon(self._keep_known)
                if self.shared.index == 0:  # the others find in the folder what one of them made
                    tasks.start_soon(self.encoder.keep_up)
                await self.keep_warm()
        finally:
            self._workshop.close()

    async def _keep_known(self) -> None:
        """So that a newcomer to a full server is handed to a process where somebody gives way. Never returns."""
        while True:
            self.shared.tell(Count.WAITING, self.sessions.waiting)
            await anyio.sleep(KNOWN_EVERY_S)

    @property
    def workshop(self) -> Workshop:
        """Threads for a session's heavy work."""
        assert self._workshop is not None, "sessions run while the server does"
        return self._workshop

    def _late_s(self) -> float:
        return self._workshop.late_s() if self._workshop is not None else 0.0

    def engine_died(self) -> None:
        """A stream said so: not ready until the engine has spoken again."""
        if self._warm.is_set():
            log.error("the engine died; waiting for it to speak again")
            self._warm = anyio.Event()
            self._cold.set()

    def drain(self) -> None:
        """Let nobody in any more and ask everybody to leave. Idempotent."""
        if self._draining_until is None:
            grace_s = self.settings.drain_s
            self._draining_until = self.clock() + grace_s
            log.info("draining", extra={"sessions": len(self.sessions), "grace_s": grace_s})
            for session in self.sessions:
                session.drain(grace_s)

    @property
    def drained(self) -> bool:
        """Whether the server may end now."""
        if self._draining_until is None:
            return False
        return (not self.sessions and not self.sockets) or self.clock() >= self._draining_until + RETRY_S

    async def until_ready(self) -> None:
        """Wait for the first warm-up."""
        await self._warm.wait()

    async def keep_warm(self) -> None:
        """Have the engine speak a first frame, now and after each time it died. Never returns."""
        while True:
            started = self.clock()
            while not await self._speak_one_frame():
                await anyio.sleep(RETRY_S)
            log.info("ready", extra={"warm_up_s": round(self.clock() - started, 3)})
            self._cold = anyio.Event()
            self._warm.set()
            await self._cold.wait()

    async def _speak_one_frame(self) -> bool:
        conversation = Conversation(f"warm-up-{self.shared.index}")  # one of each process: the engine is the same
        try:
            stream = self.engine.open(conversation, Voice(DEFAULT), SamplingParams(max_frames=8), turn=0)
            stream.push(WARM_UP)
            stream.finish()
            stream.allow(1)
            try:
                async for event in stream:
                    if isinstance(event, Frame):
                        return True
            finally:
                stream.cancel()
                self.engine.forget(conversation.id)
        except EngineError as error:
            log.error("warm-up failed: %s", error)
        return False

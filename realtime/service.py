"""What all connections of one server share: the engine, the voices, the gate, and who is connected.

Knows whether the engine has shown that it can speak, how many may come in, and that the server is about to end. Does not know requests or
what a session does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

import anyio

from engine.api import Conversation, Engine, EngineError, Frame, SamplingParams, Voice
from protocol.errors import ErrorCode, ProtocolError
from realtime.auth import Gate
from realtime.settings import Settings
from realtime.voice_encoding import VoiceEncoder
from realtime.voices import DEFAULT, VoiceStore

log = logging.getLogger("parley.server")

WARM_UP: Final = "Hello there."
RETRY_S: Final = 1.0
CROWDED_RETRY_MS: Final = 5_000  # when a full or ending server is worth another try


class Drainable(Protocol):
    """A connection, as the service sees it."""

    def drain(self, grace_s: float) -> None:
        """End in time, by yourself."""


class Service:
    """One per server."""

    def __init__(self, settings: Settings, engine: Engine, clock: Callable[[], float]) -> None:
        self.settings = settings
        self.engine = engine
        self.clock = clock  # seconds, monotonic: the event loop's own, so that its timers and ours agree
        self.gate = Gate([key.get_secret_value() for key in settings.keys], settings.allowed_origins)
        self.voices = VoiceStore(settings.voices_dir, engine.info.codebooks, engine.info.codec_id)
        self.encoder = VoiceEncoder(self.voices, engine.encode)
        self.sessions: set[Drainable] = set()
        self.unauthenticated = 0  # sockets that have not shown a key yet
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
        if len(self.sessions) >= self.settings.max_sessions:
            text = f"{len(self.sessions)} sessions are connected: max_sessions={self.settings.max_sessions}"
            return ProtocolError.fatal_error(ErrorCode.TOO_MANY_SESSIONS, text, retry_after_ms=CROWDED_RETRY_MS)
        if self.unauthenticated >= self.settings.max_unauthenticated:
            text = f"{self.unauthenticated} connections have not shown a key yet"
            return ProtocolError.fatal_error(ErrorCode.TOO_MANY_SESSIONS, text, retry_after_ms=CROWDED_RETRY_MS)
        return None

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
            for session in list(self.sessions):
                session.drain(grace_s)

    @property
    def drained(self) -> bool:
        """Whether the server may end now."""
        return self._draining_until is not None and (
            not self.sessions or self.clock() >= self._draining_until + RETRY_S
        )

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
        conversation = Conversation("warm-up")
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

"""Recordings become codes: once for each recording and codec, however many ask, and never in a caller's way.

Knows the store, the files of sound, and the engine's `encode`. Does not know sessions.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
from anyio.to_thread import run_sync

from engine.api import Codes, EngineError, Reference, Samples, SynthesisFailed, Voice
from realtime.loudness import at_loudness
from realtime.recording_file import RecordingRefused, load, samples_of
from realtime.voice_folder import Source, Version
from realtime.voices import VoiceNotFound, VoiceStore, VoiceUnusable, digest_of

log = logging.getLogger("parley.voices")

KEPT_INLINE: Final = 64  # recordings that came with a request; a minute's codes are 26 kB
LOOK_EVERY_S: Final = 1.0


class VoiceEncoder:
    """Makes the codes that a store lacks. All calls come from one event loop."""

    def __init__(self, store: VoiceStore, encode: Callable[[Samples, int], Awaitable[Codes]]) -> None:
        """encode: the engine's."""
        self._store = store
        self._encode = encode
        # One recording at a time: the engine takes them one by one anyway, and whoever waits finds it done.
        self._lock = anyio.Lock()
        self._seen: dict[str, Version] = {}  # voices that need no look until they change
        self._inline: OrderedDict[str, Codes] = OrderedDict()  # by hash of the recording

    async def ready(self, name: str) -> Voice:
        """The voice, with the recordings that it has now. Raises what `VoiceStore.get` does, and EngineError."""
        for source in self._store.missing(name):
            async with self._lock:
                await self._once(name, source)
        return self._store.get(name)

    async def keep_up(self) -> None:
        """Encode whatever is in the folder and comes into it, so that nobody waits for it later. Never returns."""
        while True:
            for name in self._store.files.names():
                await self._look(name)
            await anyio.sleep(LOOK_EVERY_S)

    async def inline(self, recordings: Sequence[tuple[bytes, str]]) -> Voice:
        """A voice of audio files and their transcripts that came with a request; nothing is stored.

        Raises RecordingRefused, EngineError.
        """
        references = []
        for audio, text in recordings:
            digest = hashlib.sha256(audio).hexdigest()
            async with self._lock:
                if digest not in self._inline:
                    self._inline[digest] = await self._encode(*await run_sync(_levelled, audio))
                self._inline.move_to_end(digest)
            references.append(Reference(text, self._inline[digest]))
            while len(self._inline) > KEPT_INLINE:
                self._inline.popitem(last=False)
        return Voice(f"inline-{digest_of(references)}", tuple(references))

    async def _look(self, name: str) -> None:
        try:
            version = self._store.files.version(name)
            if self._seen.get(name) == version:
                return
            missing = self._store.missing(name)
            if missing:
                await self.ready(name)
                log.info("voice encoded", extra={"voice": name, "recordings": len(missing)})
        except VoiceNotFound:
            return
        except VoiceUnusable as error:
            log.warning("%s", error)
        except SynthesisFailed as error:
            log.warning("voice %r cannot be encoded: %s", name, error)
        except EngineError as error:
            log.debug("voice %r is encoded later: %s", name, error)
            return
        self._seen[name] = version

    async def _once(self, name: str, source: Source) -> None:
        if not any(source == one for one in self._store.missing(name)):
            return  # somebody else made it while we waited
        try:
            samples, rate = await run_sync(lambda: _levelled(load(self._store.files.recording(source.recording))))
        except RecordingRefused as error:
            raise VoiceUnusable(name, f"its recording {error}") from error
        codes = await self._encode(samples, rate)
        unwritten = await run_sync(self._store.keep_codes, source.recording, codes)
        if unwritten is not None:
            log.warning("codes of voice %r cannot be written and are made again after a restart: %s", name, unwritten)


def _levelled(data: bytes) -> tuple[Samples, int]:
    """Mono samples of a recording and their rate in Hz, as loud as every other voice's: a model speaks as loud as it was spoken to.

    Raises RecordingRefused.
    """
    samples, rate = samples_of(data)
    return at_loudness(samples, rate), rate

"""Prefill for conversations that are about to speak, while nothing else is to be done.

Knows which prompts were hinted at, and goes through them first come first served. Does not know streams: whoever opens one for a
conversation drops its prefetch first. Between steps a prefetch owns nothing, so that what it has computed is the first to go when a
speaking stream needs the pages.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.cache import ConversationCache
from engine.kv import CachedSequence, Columns, OutOfPages
from engine.runner import Runner

POSITIONS = 256  # a step; bounds how long somebody who begins to speak meanwhile waits


@dataclass(slots=True)
class _Prefetch:
    conversation: str
    voice: str
    prefix: int  # positions of the system message
    target: Columns
    sequence: CachedSequence | None = None


class Prefetches:
    """A queue of prompts, one a conversation. Falsy while there is nothing to do."""

    def __init__(self, cache: ConversationCache, runner: Runner) -> None:
        self._cache = cache
        self._runner = runner
        self._jobs: dict[str, _Prefetch] = {}

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, conversation: str, voice: str, target: Columns, prefix: int) -> None:
        """Prefill `target`, whose first `prefix` positions are the voice's, in place of what was asked for this conversation before."""
        self._jobs[conversation] = _Prefetch(conversation, voice, prefix, target)

    def drop(self, conversation: str) -> None:
        """It is not wanted any more; what it computed stays in the cache."""
        self._jobs.pop(conversation, None)

    def step(self) -> None:
        """Compute some positions of the oldest."""
        job = next(iter(self._jobs.values()))
        if job.sequence is None or not self._cache.holds(job.conversation, job.sequence):
            job.sequence = self._cache.resume(job.conversation, job.voice, job.target, keep_last=False)
        sequence = job.sequence
        columns = job.target[:, sequence.length :][:, :POSITIONS]
        if columns.shape[1]:
            self._cache.acquire(job.conversation)
            try:
                self._cache.extend(sequence, columns)
            except OutOfPages:
                self.drop(job.conversation)  # a hint; the turn itself will say what is short
                return
            finally:
                self._cache.release(job.conversation)
            self._runner.prefill(sequence, columns.shape[1])
            self._cache.counters.prefilled += columns.shape[1]
        if sequence.length == job.target.shape[1]:
            self._cache.share_voice(job.voice, sequence, job.prefix)
            self.drop(job.conversation)

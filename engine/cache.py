"""What stays in KV between turns: one sequence per conversation, one shared prefix per voice.

Knows which sequence a prompt continues and what to drop when pages run out. Does not know tensors or what a prompt means: prompts are
matrices of columns, and the longest common prefix with what is cached decides what has to be computed. That single rule gives a later
turn its cheap start (only its own text is new), and an interruption its truth (a history that was cut differs from the cache where it
was cut, so everything after is dropped and what was heard is computed again).
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from engine.kv import CachedSequence, Columns, OutOfPages, PagePool

MAX_VOICES = 64  # shared prefixes kept; each holds the pages of its reference alone


@dataclass(slots=True)
class CacheCounters:
    """Running totals, for tests and metrics."""

    prefilled: int = 0  # positions computed by prefill
    reused: int = 0  # prompt positions that were found cached
    evicted: int = 0  # conversations dropped to make room


class ConversationCache:
    """Sequences by conversation id, least recently used first, and voice prefixes by voice id."""

    def __init__(self, pool: PagePool, codebooks: int) -> None:
        self.pool = pool
        self.counters = CacheCounters()
        self._codebooks = codebooks
        self._conversations: OrderedDict[str, CachedSequence] = OrderedDict()
        self._voices: OrderedDict[str, CachedSequence] = OrderedDict()
        self._active: set[str] = set()  # conversations that must not be evicted

    def acquire(self, conversation: str) -> None:
        """A stream speaks in this conversation: never evict it until `release`."""
        self._active.add(conversation)

    def release(self, conversation: str) -> None:
        """The stream is over; what is cached stays as long as there is room."""
        self._active.discard(conversation)

    def resume(self, conversation: str, voice: str, prompt: Columns, keep_last: bool) -> CachedSequence:
        """The conversation's sequence, cut to what it shares with `prompt`; the caller extends it by the rest.

        keep_last: leave at least one column to compute, because its hidden state is wanted.
        """
        wanted = prompt[:, :-1] if keep_last else prompt
        sequence = self._conversations.get(conversation)
        common = 0 if sequence is None else sequence.common_prefix(wanted)
        prefix = self._voices.get(voice)
        shared = 0 if prefix is None else prefix.common_prefix(wanted)
        if prefix is not None and shared > common:
            self.forget(conversation)
            sequence = prefix.fork(shared)
            self._voices.move_to_end(voice)
            common = shared
        if sequence is None:
            sequence = CachedSequence(self.pool, self._codebooks)
        sequence.truncate(common)
        self._conversations[conversation] = sequence
        self._conversations.move_to_end(conversation)
        self.counters.reused += common
        return sequence

    def extend(self, sequence: CachedSequence, columns: Columns) -> None:
        """Own the next positions, dropping idle conversations and unused voices where pages are short. Raises OutOfPages."""
        while True:
            try:
                sequence.extend(columns)
                return
            except OutOfPages:
                if not self._make_room():
                    raise

    def share_voice(self, voice: str, sequence: CachedSequence, length: int) -> None:
        """Keep the first `length` positions (the system message with the voice's references) for other conversations."""
        known = self._voices.get(voice)
        if known is not None:
            if known.length >= length:
                return
            known.truncate(0)
        self._voices[voice] = sequence.fork(length)
        while len(self._voices) > MAX_VOICES:
            self._voices.popitem(last=False)[1].truncate(0)

    def forget(self, conversation: str) -> None:
        """Drop a conversation's sequence; a later turn rebuilds it."""
        sequence = self._conversations.pop(conversation, None)
        if sequence is not None:
            sequence.truncate(0)

    def poison(self, conversation: str, voice: str) -> None:
        """A NaN came out: nothing of this conversation or its voice is kept, and their pages are clean before anybody gets them."""
        for sequence in (self._conversations.pop(conversation, None), self._voices.pop(voice, None)):
            if sequence is not None:
                sequence.wipe()

    def cached_positions(self, conversation: str) -> int:
        sequence = self._conversations.get(conversation)
        return 0 if sequence is None else sequence.length

    def _make_room(self) -> bool:
        for conversation in self._conversations:
            if conversation not in self._active:
                self.forget(conversation)
                self.counters.evicted += 1
                return True
        if self._voices:
            self._voices.popitem(last=False)[1].truncate(0)
            return True
        return False

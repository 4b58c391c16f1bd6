"""What stays in KV between turns: one sequence per conversation, one shared prefix per voice.

Knows which sequence a prompt continues and what to drop when pages run out. Does not know tensors or what a prompt means: prompts are
matrices of columns, and the longest common prefix with what is cached decides what has to be computed. That single rule gives a later
turn its cheap start (only its own text is new), and an interruption its truth (a history that was cut differs from the cache where it
was cut, so everything after is dropped and what was heard is computed again).

A sequence belongs to the cache. Whoever extends one must have acquired its conversation; without that, any call may drop it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
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
        self._active: set[str] = set()  # conversations that must not be dropped
        self._doomed: set[str] = set()  # of those, the ones to forget at their release

    def acquire(self, conversation: str) -> None:
        """Somebody extends this conversation: never drop it until `release`. One at a time."""
        assert conversation not in self._active, "a conversation has one stream at a time"
        self._active.add(conversation)

    def release(self, conversation: str) -> None:
        """What is cached stays as long as there is room, or goes now if the conversation was forgotten meanwhile."""
        self._active.discard(conversation)
        if conversation in self._doomed:
            self._doomed.discard(conversation)
            self._drop(conversation)

    def resume(self, conversation: str, voice: str, prompt: Columns, keep_last: bool) -> CachedSequence:
        """The conversation's sequence, cut to what it shares with `prompt`; the caller extends it by the rest.

        keep_last: leave at least one column to compute, because its hidden state is wanted. A sequence that was resumed before is no
        longer the conversation's own.
        """
        wanted = prompt[:, :-1] if keep_last else prompt
        sequence = self._conversations.get(conversation)
        common = 0 if sequence is None else sequence.common_prefix(wanted)
        prefix = self._voices.get(voice)
        shared = 0 if prefix is None else prefix.common_prefix(wanted)
        if prefix is not None and shared > common:
            self._drop(conversation)
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

    def holds(self, conversation: str, sequence: CachedSequence) -> bool:
        """Whether this is still the conversation's sequence."""
        return self._conversations.get(conversation) is sequence

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
            if known.common_prefix(sequence.columns[:, :length]) == length:
                return
            known.truncate(0)
        self._voices[voice] = sequence.fork(length)
        while len(self._voices) > MAX_VOICES:
            self._voices.popitem(last=False)[1].truncate(0)

    def forget(self, conversation: str) -> None:
        """Drop a conversation's sequence, at its release if it is in use; a later turn rebuilds it."""
        if conversation in self._active:
            self._doomed.add(conversation)
        else:
            self._drop(conversation)

    def poison(self, conversation: str, voice: str) -> None:
        """A NaN came out: nothing of this conversation or its voice is kept, not even for who speaks in it now."""
        self._drop(conversation)
        prefix = self._voices.pop(voice, None)
        if prefix is not None:
            prefix.truncate(0)

    def cached_positions(self, conversation: str) -> int:
        """How much of a conversation is cached."""
        sequence = self._conversations.get(conversation)
        return 0 if sequence is None else sequence.length

    def _drop(self, conversation: str) -> None:
        sequence = self._conversations.pop(conversation, None)
        if sequence is not None:
            sequence.truncate(0)

    def _make_room(self) -> bool:
        for conversation in self._conversations:
            if conversation not in self._active:
                self._drop(conversation)
                self.counters.evicted += 1
                return True
        # A voice whose pages all belong to conversations in use would free nothing, and be missed. Two voices may share pages.
        held = Counter(page for prefix in self._voices.values() for page in prefix.pages)
        for voice, prefix in self._voices.items():
            if any(self.pool.owners(page) == held[page] for page in prefix.pages):
                del self._voices[voice]
                prefix.truncate(0)
                return True
        return False

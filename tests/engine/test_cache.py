"""Which sequence a prompt continues, and what goes when pages run out. Columns are numbers; nothing is computed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.cache import MAX_VOICES, ConversationCache
from engine.kv import PAGE, CachedSequence, Columns, OutOfPages, PagePool


def cache(pages: int = 16) -> ConversationCache:
    return ConversationCache(PagePool(1, 1, 2, pages, torch.device("cpu"), torch.float32), 2)


def prompt(*parts: tuple[int, int]) -> Columns:
    """Columns of the given (value, length) parts."""
    return np.concatenate([np.full((3, n), value, np.int64) for value, n in parts], axis=1)


def say(kept: ConversationCache, conversation: str, columns: Columns, voice: str = "v") -> CachedSequence:
    """What a stream does, from its opening to its end."""
    kept.acquire(conversation)
    sequence = kept.resume(conversation, voice, columns, keep_last=False)
    kept.extend(sequence, columns[:, sequence.length :])
    kept.release(conversation)
    return sequence


def test_a_prompt_continues_what_it_shares_with_the_conversation() -> None:
    kept = cache()
    say(kept, "a", prompt((1, 40), (2, 40)))
    assert kept.resume("a", "v", prompt((1, 40), (3, 40)), keep_last=False).length == 40
    assert kept.counters.reused == 40


def test_the_last_column_is_left_to_compute_where_its_hidden_state_is_wanted() -> None:
    kept = cache()
    say(kept, "a", prompt((1, 40)))
    assert kept.resume("a", "v", prompt((1, 40)), keep_last=True).length == 39


def test_a_new_conversation_starts_from_its_voice() -> None:
    kept = cache()
    kept.share_voice("v", say(kept, "a", prompt((1, 40), (2, 40))), 40)
    assert kept.resume("b", "v", prompt((1, 40), (3, 9)), keep_last=False).length == 40


def test_a_voice_whose_columns_changed_is_replaced() -> None:
    kept = cache()
    kept.share_voice("v", say(kept, "a", prompt((1, 40))), 40)
    kept.share_voice("v", say(kept, "b", prompt((5, 40))), 40)
    assert kept.resume("c", "v", prompt((5, 40), (3, 9)), keep_last=False).length == 40


def test_no_more_voices_are_kept_than_the_bound_and_the_oldest_goes() -> None:
    kept = cache(pages=2 * MAX_VOICES + 8)
    for n in range(MAX_VOICES + 1):
        kept.share_voice(str(n), say(kept, "a", prompt((n, 40))), 40)
    assert list(kept._voices) == [str(n) for n in range(1, MAX_VOICES + 1)]


def test_the_conversation_that_spoke_longest_ago_goes_first_and_none_that_speaks() -> None:
    kept = cache(pages=6)
    for name in "abc":
        say(kept, name, prompt((ord(name), 2 * PAGE)))
    say(kept, "a", prompt((ord("a"), 2 * PAGE)))
    kept.acquire("c")
    say(kept, "d", prompt((9, 2 * PAGE)))
    assert [kept.cached_positions(name) > 0 for name in "abcd"] == [True, False, True, True]
    say(kept, "e", prompt((8, 4 * PAGE)))
    assert [kept.cached_positions(name) > 0 for name in "abcde"] == [False, False, True, False, True]


def test_only_a_voice_whose_pages_come_free_is_given_up() -> None:
    kept = cache(pages=6)
    speaking = say(kept, "a", prompt((1, PAGE), (2, PAGE)), "used")
    kept.share_voice("used", speaking, PAGE)
    kept.share_voice("idle", say(kept, "b", prompt((3, 2 * PAGE)), "idle"), 2 * PAGE)
    kept.acquire("a")
    say(kept, "c", prompt((4, 4 * PAGE)))
    assert list(kept._voices) == ["used"]
    with pytest.raises(OutOfPages):
        say(kept, "d", prompt((5, 6 * PAGE)))
    assert list(kept._voices) == ["used"]


def test_voices_that_share_their_pages_do_not_keep_each_other() -> None:
    kept = cache(pages=4)
    sequence = say(kept, "a", prompt((1, 2 * PAGE)))
    kept.share_voice("v", sequence, 2 * PAGE)
    kept.share_voice("w", sequence, 2 * PAGE)
    assert say(kept, "b", prompt((2, 4 * PAGE))).length == 4 * PAGE


def test_a_conversation_forgotten_in_use_goes_at_its_release() -> None:
    kept = cache()
    say(kept, "a", prompt((1, 40)))
    kept.acquire("a")
    kept.forget("a")
    assert kept.cached_positions("a") == 40
    kept.release("a")
    assert kept.cached_positions("a") == 0 and kept.pool.free == kept.pool.pages


def test_two_cannot_use_a_conversation_at_once() -> None:
    kept = cache()
    kept.acquire("a")
    with pytest.raises(AssertionError, match="one stream"):
        kept.acquire("a")


def test_a_poisoned_conversation_and_its_voice_are_gone_even_in_use() -> None:
    kept = cache()
    sequence = say(kept, "a", prompt((1, 40), (2, 40)))
    kept.share_voice("v", sequence, 40)
    kept.acquire("a")
    kept.poison("a", "v")
    assert not kept.holds("a", sequence) and kept.pool.free == kept.pool.pages
    assert kept.resume("a", "v", prompt((1, 40)), keep_last=False).length == 0


@given(
    st.lists(
        st.tuples(st.sampled_from(["say", "speak", "stop", "forget", "poison", "share"]), st.integers(0, 7)),
        max_size=40,
    )
)
def test_every_page_has_as_many_owners_as_are_counted(operations: list[tuple[str, int]]) -> None:
    kept = cache(pages=12)
    for operation, n in operations:
        name, voice = f"c{n % 4}", f"v{n % 2}"
        speaking = name in kept._active
        try:
            if operation == "say" and not speaking:
                say(kept, name, prompt((n % 2, 20), (n, 15 * n + 1)), voice)
            elif operation == "speak" and not speaking:
                kept.acquire(name)
                sequence = kept.resume(name, voice, prompt((n % 2, 20)), keep_last=True)
                kept.extend(sequence, prompt((n, 50)))
            elif operation == "share" and (held := kept._conversations.get(name)) is not None and held.length >= 20:
                kept.share_voice(voice, held, 20)
        except OutOfPages:
            kept.release(name)
        if operation == "stop" and speaking:
            kept.release(name)
        elif operation == "forget":
            kept.forget(name)
        elif operation == "poison":
            kept.poison(name, voice)
    sequences = [*kept._conversations.values(), *kept._voices.values()]
    owners = [page for sequence in sequences for page in sequence.pages]
    assert [owners.count(page) for page in range(12)] == [kept.pool.owners(page) for page in range(12)]
    assert all(len(sequence.pages) * PAGE >= sequence.length for sequence in sequences)

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from realtime.alignment import Word
from realtime.letters import letters


def test_a_words_time_is_shared_evenly_among_its_characters() -> None:
    told = [
        (item.text, item.start_ms, item.end_ms, item.char_start, item.char_end, item.speaker)
        for item in letters(Word("ab!", 100, 400, 7, 10, 1))
    ]
    assert told == [("a", 100, 200, 7, 8, 1), ("b", 200, 300, 8, 9, 1), ("!", 300, 400, 9, 10, 1)]


def test_what_modifies_a_character_belongs_to_it() -> None:
    assert [item.text for item in letters(Word("e\u0301l\u200d", 0, 10, 0, 4, None))] == ["e\u0301", "l\u200d"]
    family = "\U0001f469\u200d\U0001f467"
    assert [item.text for item in letters(Word(family, 0, 10, 0, 3, None))] == [family]
    assert [item.text for item in letters(Word("\U0001f44d\U0001f3fd", 0, 10, 0, 2, None))] == ["\U0001f44d\U0001f3fd"]


@given(st.text(min_size=1, max_size=12), st.integers(0, 5000), st.integers(0, 3000))
def test_the_characters_are_the_word(text: str, start_ms: int, length_ms: int) -> None:
    items = [*letters(Word(text, start_ms, start_ms + length_ms, 3, 3 + len(text), None))]
    assert "".join(item.text for item in items) == text
    edges = [(item.start_ms, item.end_ms, item.char_start, item.char_end) for item in items]
    assert (edges[0][0], edges[-1][1], edges[0][2], edges[-1][3]) == (start_ms, start_ms + length_ms, 3, 3 + len(text))
    assert all(before[1] == after[0] and before[3] == after[2] for before, after in pairwise(edges))

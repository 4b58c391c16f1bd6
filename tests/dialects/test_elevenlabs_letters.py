from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from protocol.dialects.elevenlabs_letters import Letter, Letters
from protocol.events import Alignment, AlignmentItem


def words(text: str, final: bool = False, at_ms: int = 0, each_ms: int = 100, start: int = 0) -> Alignment:
    """The words of a text from character `start` on, each a tenth of a second after the one before, told as a turn tells them."""
    items: list[AlignmentItem] = []
    for word in text[start:].split():
        start = text.index(word, start)
        items.append(AlignmentItem(word, at_ms, at_ms + each_ms, start, start + len(word)))
        start, at_ms = start + len(word), at_ms + 2 * each_ms
    return Alignment(turn="t1", items=tuple(items), final=final)


def spelled(letters: tuple[Letter, ...]) -> str:
    return "".join(letter.char for letter in letters)


def test_a_space_belongs_to_the_time_between_two_words() -> None:
    letters = Letters()
    letters.text("ab cd")
    letters.event(words("ab cd"))
    told = letters.take()
    assert told is not None
    assert [(one.char, one.start_ms, one.end_ms) for one in told.written] == [
        ("a", 0, 50),
        ("b", 50, 100),
        (" ", 100, 200),
        ("c", 200, 250),
        ("d", 250, 300),
    ]


def test_the_last_word_of_a_segment_is_complete_at_once_and_the_space_is_told_once() -> None:
    letters = Letters()
    letters.text("One.")
    letters.event(words("One.", final=True))
    first = letters.take()
    letters.text(" Two.")
    letters.event(words("One. Two.", start=5, at_ms=300, final=True))
    second = letters.take()
    assert first is not None and second is not None
    assert spelled(first.written) + spelled(second.written) == "One. Two. "


def test_a_space_that_has_come_is_told_with_its_word() -> None:
    letters = Letters()
    letters.text("One. Two.")
    letters.event(words("One.", final=True))
    letters.event(words("One. Two.", start=5, at_ms=300, final=True))
    told = letters.take()
    assert told is not None and spelled(told.written) == "One. Two. "


def test_words_that_are_told_again_with_better_times_are_let_pass() -> None:
    letters = Letters()
    letters.text("one two ")
    letters.event(words("one two"))
    assert letters.take() is not None
    letters.event(words("one two", final=True, at_ms=7))
    told = letters.take()
    assert told is not None and spelled(told.written) == " ", "only that the last one is complete"


def test_tags_are_written_and_not_spoken() -> None:
    letters = Letters()
    raw = "<|speaker:0|>[happy] Hello [laugh] there"
    letters.text(raw)
    items = [AlignmentItem(w, 0, 0, raw.index(w), raw.index(w) + len(w)) for w in ("Hello", "there")]
    letters.event(Alignment(turn="t1", items=tuple(items), final=True))
    told = letters.take()
    assert told is not None
    assert spelled(told.written) == raw + " "
    assert spelled(told.spoken) == "Hello there "


def test_a_pause_that_was_made_of_other_markup_is_no_word() -> None:
    letters = Letters()
    raw = "One. [ long pause] Two."
    letters.text(raw)
    items = [AlignmentItem(w, 0, 0, raw.index(w), raw.index(w) + len(w)) for w in ("One.", "Two.")]
    letters.event(Alignment(turn="t1", items=tuple(items), final=True))
    told = letters.take()
    assert told is not None
    assert spelled(told.written).split() == spelled(told.spoken).split() == ["One.", "Two."]


def test_text_without_spaces_gets_none_in_the_middle() -> None:
    letters = Letters()
    letters.text("你好。再见。")
    for at in (0, 3):
        part = "你好。再见。"[at : at + 3]
        items = tuple(AlignmentItem(char, at, at, at + n, at + n + 1) for n, char in enumerate(part))
        letters.event(Alignment(turn="t1", items=items, final=True))
    told = letters.take()
    assert told is not None and spelled(told.written) == "你好。再见。 "


def test_a_line_break_is_a_space() -> None:
    letters = Letters()
    letters.text("one\ntwo")
    letters.event(words("one\ntwo"))
    told = letters.take()
    assert told is not None and spelled(told.written) == "one two"


def test_a_second_turn_goes_on_where_the_first_one_ended() -> None:
    letters = Letters()
    letters.text("One.")
    letters.event(words("One.", final=True))
    letters.turn_done(500, complete=True)
    letters.text("Two.")
    letters.event(words("Two.", final=True))
    told = letters.take()
    assert told is not None
    assert [one.start_ms for one in told.written if one.char == "T"] == [500]


@given(st.lists(st.sampled_from(["a", "bc", "def."]), min_size=1, max_size=6), st.data())
def test_however_it_is_told_every_character_is_told_once_and_times_never_fall(
    parts: list[str], data: st.DataObject
) -> None:
    raw, letters, written, base_ms = " ".join(parts), Letters(), [], 0
    letters.text(raw)
    whole = words(raw).items
    at = 0
    while at < len(whole):
        upto = data.draw(st.integers(at + 1, len(whole)))
        final = data.draw(st.booleans())
        letters.event(Alignment(turn="t1", items=whole[0 if final else at : upto], final=final))
        at = upto
        if data.draw(st.booleans()) and (told := letters.take()) is not None:
            assert told.base_ms == base_ms, "who adds up the spans comes to the same time"
            base_ms = told.written[-1].end_ms
            written += told.written
    letters.turn_done(10_000, complete=True)
    if (told := letters.take()) is not None:
        written += told.written
    assert spelled(tuple(written)).rstrip() == raw
    times = [time for letter in written for time in (letter.start_ms, letter.end_ms)]
    assert times == sorted(times)

"""Segments of text that is cleaned and put into words: the same however it was cut, and the raw input is never lost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import Latency, TagMode
from realtime.repertoire import EVERYTHING, Repertoire
from realtime.said import ChangeKind
from realtime.segmenter import IDLE_S, LONG_IDLE_S, MAX_SEGMENT_CHARS, MIN_SEGMENT_CHARS, Segment, Segmenter
from realtime.tags import Text, engine_text
from realtime.wording import Lexicon, Wording
from tests.realtime.test_expansion import numeric
from tests.realtime.test_markdown import marked
from tests.realtime.texts import cut_lists, single_units, utf16_pieces

LOW, PERFORM = Latency.LOW, TagMode.PERFORM
FULL = Wording(clean=True, in_words=True, lexicon=Lexicon({"hello": "hullo", "SQL": "sequel"}))
LATIN = Repertoire(("Latin",))
NO_LEAD = 0.0

written = st.one_of(marked, numeric, st.tuples(marked, numeric, marked).map("".join))
settings = st.tuples(
    st.sampled_from(Latency),
    st.sampled_from(TagMode),
    st.sampled_from((MIN_SEGMENT_CHARS, MAX_SEGMENT_CHARS)),
    st.sampled_from((EVERYTHING, LATIN)),
    st.sampled_from((FULL, Wording(clean=True), Wording(in_words=True, language="de"))),
)
Setting = tuple[Latency, TagMode, int, Repertoire, Wording]


def speak(pieces: list[str], setting: Setting = (LOW, PERFORM, MAX_SEGMENT_CHARS, EVERYTHING, FULL)) -> list[Segment]:
    segmenter, taken = Segmenter(*setting), list[Segment]()
    for piece in pieces:
        segmenter.push(piece, 0.0)
        taken += segmenter.take(0.0, 5.0)
    segmenter.end()
    return taken + segmenter.take(0.0, 5.0)


def said(text: str) -> str:
    return " ".join(segment.text for segment in speak([text]) if segment.speakable)


@given(written, cut_lists, settings)
def test_any_cutting_of_a_text_gives_the_same_segments(text: str, cuts: list[int], setting: Setting) -> None:
    whole = speak([text], setting)
    assert speak(utf16_pieces(text, cuts), setting) == whole
    assert speak(single_units(text), setting) == whole


@given(written, settings)
def test_segments_tile_the_raw_text(text: str, setting: Setting) -> None:
    segments = speak([text], setting)
    assert "".join(segment.raw for segment in segments) == text
    assert all(text[segment.start : segment.end] == segment.raw for segment in segments)
    assert all(0 < len(segment.raw) <= setting[2] for segment in segments)
    assert all("".join(token.raw for token in segment.tokens) == segment.raw for segment in segments)


@given(written, settings)
def test_what_the_engine_gets_knows_where_it_comes_from(text: str, setting: Setting) -> None:
    for segment in speak([text], setting):
        prefix = len(segment.prefix)
        assert len(segment.origin) == len(segment.text)
        assert segment.origin[:prefix] == (-1,) * prefix
        places = segment.origin[prefix:]
        assert all(left <= right for left, right in pairwise(places))
        assert all(segment.start <= place < segment.end for place in places)


@given(written, settings, st.integers(0, 600))
def test_a_segments_text_up_to_a_place_is_a_beginning_of_it(text: str, setting: Setting, place: int) -> None:
    for segment in speak([text], setting):
        assert segment.text_until(segment.end) == segment.text.rstrip()
        assert segment.text.startswith(segment.text_until(segment.start + place))


@given(written)
def test_without_wording_the_tokens_are_read_as_they_stand(text: str) -> None:
    for segment in speak([text], (LOW, PERFORM, MAX_SEGMENT_CHARS, LATIN, Wording())):
        assert not segment.changes
        assert all(not isinstance(token, Text) or token.said is None for token in segment.tokens)
        if segment.speakable:
            assert segment.text == engine_text(segment.prefix, list(segment.tokens), PERFORM, LATIN)


def test_an_answer_of_a_language_model_is_read_as_a_person_would() -> None:
    answer = (
        "## Your order 🎉\n\n**2** items for $15.50:\n\n- [Hello mug](https://shop.example/mug?id=7)\n- `SQL` book\n\n"
        "```json\n{'total': 15.5}\n```\n| Day | Time |\n|---|---|\n| March 5 | 3:30 pm |\n"
    )
    assert said(answer) == (
        "Your order. two items for fifteen dollars and fifty cents: hullo mug. sequel book. Day, Time. March fifth, three thirty pm."
    )


def test_a_block_of_code_costs_the_engine_nothing_however_long_it_is() -> None:
    code = "```python\n" + "x = compute(x) + 1\n" * 200 + "```\n"
    segments = speak([f"Here is the code:\n{code}That is all."])
    assert [segment.text for segment in segments if segment.speakable] == ["Here is the code:", "That is all."]
    assert "".join(segment.raw for segment in segments) == f"Here is the code:\n{code}That is all."


def test_each_segment_tells_its_own_changes() -> None:
    segments = speak(["**One** thing is here, and it is quite long. Then 😀 comes another one of that kind."])
    told = [(change.kind, change.start, change.end) for segment in segments for change in segment.changes]
    assert told == [(ChangeKind.MARKS, 0, 2), (ChangeKind.MARKS, 5, 7), (ChangeKind.EMOJI, 50, 51)]
    for segment in segments:
        assert all(segment.start <= change.start < change.end <= segment.end for change in segment.changes)


def test_what_the_lexicon_respells_is_not_unread() -> None:
    wording = Wording(lexicon=Lexicon({"кот": "kot"}))
    (segment,) = speak(["Кот и dog."], (LOW, PERFORM, MAX_SEGMENT_CHARS, LATIN, wording))
    assert segment.text == "kot dog."
    assert [(stretch.start, stretch.end) for stretch in segment.unread] == [(4, 5)]


@pytest.mark.parametrize("number", ["5 km", "$5 million", "5 %", "5. März", "$ 5", "12 345"])
def test_a_number_is_not_parted_from_what_it_counts(number: str) -> None:
    text = f"one two three four five six seven {number} eight nine ten eleven twelve thirteen fourteen"
    start = text.index(number)
    inside = range(start + 1, start + len(number))
    assert not any(segment.start in inside for segment in speak([text]))


def test_a_number_at_the_end_of_what_came_waits_for_what_follows() -> None:
    segmenter = Segmenter(LOW, PERFORM, wording=FULL)
    segmenter.push("It costs 3", 0.0)
    late = 10 * LONG_IDLE_S
    assert [segment.raw for segment in segmenter.take(late, NO_LEAD)] == ["It costs "]
    assert segmenter.deadline(late, NO_LEAD) is None
    segmenter.push("50 dollars ", late)
    assert segmenter.take(late + IDLE_S, NO_LEAD)[0].text == "three hundred and fifty dollars"
    segmenter.push(" and 7", late + 1)
    segmenter.end()
    assert segmenter.take(late + 2, NO_LEAD)[-1].text.endswith("seven")


def test_a_flush_speaks_the_number_that_is_there() -> None:
    segmenter = Segmenter(LOW, PERFORM, wording=FULL)
    segmenter.push("It costs 3", 0.0)
    segmenter.flush()
    assert [segment.text for segment in segmenter.take(0.0, NO_LEAD)] == ["It costs three"]


def test_the_language_follows_the_turn() -> None:
    german = speak(["Das kostet genau 3,50 €, mein Freund, und das ist gut. Und noch 2,5 km."])
    assert " ".join(segment.text for segment in german) == (
        "Das kostet genau drei Euro fünfzig, mein Freund, und das ist gut. Und noch zwei Komma fünf Kilometer."
    )

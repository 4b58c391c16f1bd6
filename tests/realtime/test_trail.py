"""Word times from where the model says it is in the text."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import Latency, Snap, TagMode
from protocol.events import AlignmentSource
from realtime.alignment import Timeline
from realtime.segmenter import Segment, Segmenter
from realtime.trail import Trail
from realtime.wording import Lexicon, Wording
from tests.realtime.texts import texts

FRAME_MS = 50.0
TEXT = 'Well, "hello" there my friend.'


def segments_of(text: str) -> list[Segment]:
    segmenter = Segmenter(Latency.QUALITY, TagMode.PERFORM)
    segmenter.push(text, 0.0)
    segmenter.end()
    return segmenter.take(0.0, 0.0)


def trail(places: list[int], text: str = TEXT) -> Trail:
    made = Trail(segments_of(text)[0])
    for place in places:
        made.add(place)
    return made


def timeline(text: str, places: list[int], finish: bool = True) -> Timeline:
    """The whole text is one segment; each frame speaks one of the places."""
    (segment,) = segments_of(text)
    made = Timeline(TagMode.PERFORM, FRAME_MS)
    made.add_segment(segment)
    for frame, place in enumerate(places, 1):
        made.update(frame * FRAME_MS, place)
    if finish:
        made.finish_segment(len(places) * FRAME_MS)
        made.finish()
    return made


def times(made: Timeline) -> dict[str, tuple[int, int]]:
    return {word.text: (word.start_ms, word.end_ms) for word in made.words()}


# Trail


def test_a_place_is_reached_between_the_frames_before_and_behind_it() -> None:
    assert trail([0, 4, 8]).reached(4) == 1.5  # in the middle of the frame that speaks it
    assert trail([0, 4, 8]).reached(6) == 2.0
    assert trail([0, 4, 8]).reached(9) is None
    assert trail([3, 4]).reached(2) == 0.0
    assert trail([]).reached(0) is None


def test_a_place_that_was_taken_back_is_reached_when_it_comes_for_good() -> None:
    assert trail([0, 9]).reached(8) == pytest.approx(0.5 + 8 / 9)
    assert trail([0, 9, 2]).reached(8) is None
    assert trail([0, 9, 2, 10]).reached(8) == pytest.approx(2.5 + 6 / 8)


@given(st.lists(st.integers(0, 29), min_size=1, max_size=40), st.integers(0, 29))
def test_a_place_is_reached_behind_the_last_frame_that_is_before_it(places: list[int], char: int) -> None:
    before = [frame for frame, place in enumerate(places) if place < char]
    reached = trail(places).reached(char)
    if not before:
        assert reached == 0.0
    elif before[-1] == len(places) - 1:
        assert reached is None
    else:
        assert reached is not None and before[-1] + 0.5 < reached <= before[-1] + 1.5


def test_the_sound_of_a_word_is_without_its_marks() -> None:
    made = trail([])
    assert made.sound(0, 5) == (0, 4)
    assert made.sound(6, 13) == (7, 12)
    assert made.sound(5, 6) == (5, 6)  # nothing but a blank: its own place


def test_a_word_behind_tags_and_speakers_is_found_in_what_the_engine_got() -> None:
    text = "<|speaker:1|>[sad] So it [laugh] is."
    made = Trail(segments_of(text)[0])
    engine = segments_of(text)[0].text
    for word in ("So", "it", "is"):
        at = text.index(word)
        assert made.sound(at, at + len(word)) == (engine.index(word), engine.index(word) + len(word))


def test_a_number_and_a_respelt_word_sound_as_long_as_all_that_is_said_for_them() -> None:
    text = "Give Siobhan 25 apples."
    segmenter = Segmenter(
        Latency.QUALITY, TagMode.PERFORM, wording=Wording(in_words=True, lexicon=Lexicon({"Siobhan": "Shi vawn"}))
    )
    segmenter.push(text, 0.0)
    segmenter.end()
    (segment,) = segmenter.take(0.0, 0.0)
    assert segment.text == "Give Shi vawn twenty-five apples."
    made = Trail(segment)
    for word, said in {"Siobhan": "Shi vawn", "25": "twenty-five", "apples.": "apples"}.items():
        at, there = text.index(word), segment.text.index(said)
        assert made.sound(at, at + len(word)) == (there, there + len(said))


# Timeline


def test_words_have_the_times_that_the_model_tells() -> None:
    places = [0, 1, 3, 4, 5, 7, 9, 11, 13, 14, 16, 18, 19, 20, 21, 23, 25, 28, 29]
    found = times(timeline(TEXT, places))
    assert list(found) == ["Well,", '"hello"', "there", "my", "friend."]
    assert found["Well,"] == (0, 175)  # frame 3 speaks the comma
    assert found['"hello"'][0] == 275  # frame 5 speaks the h
    assert found["there"][0] == 475
    assert found["friend."] == (775, 925)  # the full stop is reached in the middle of frame 18
    assert all(start <= end for start, end in found.values())


def test_a_slow_word_makes_the_others_no_slower() -> None:
    head, tail = [0, 3, 5, 7, 9], [11, 13, 14, 17, 20, 22, 25, 29]
    quick, slow = [*head, *tail], [*head, 9, 9, 9, 9, *tail]
    a, b = times(timeline(TEXT, quick)), times(timeline(TEXT, slow))
    assert a["Well,"] == b["Well,"]
    assert b["my"][1] - b["my"][0] == a["my"][1] - a["my"][0]
    assert b['"hello"'][1] - b['"hello"'][0] == a['"hello"'][1] - a['"hello"'][0] + 4 * FRAME_MS


def test_a_word_is_told_once_the_model_is_past_it_and_says_who_knows() -> None:
    made = timeline(TEXT, [0, 2, 3], finish=False)
    assert made.take_words() == []
    made.update(4 * FRAME_MS, 4)
    (told,) = made.take_words()
    assert [word.text for word in told.words] == ["Well,"] and told.source is AlignmentSource.MODEL and not told.final
    assert told.words[0].end_ms <= 4 * FRAME_MS


def test_what_the_model_never_came_to_shares_the_audio_that_is_left() -> None:
    found = times(timeline(TEXT, [0, 3, 5, 7, 9, 12, 13, 13, 13, 13, 13, 13, 13]))
    assert found['"hello"'][1] <= 300
    assert found["there"][0] >= found['"hello"'][1] and found["friend."][1] <= 13 * FRAME_MS
    assert found["there"][1] <= found["my"][0] < found["friend."][0]


def test_without_places_times_are_estimates_and_say_so() -> None:
    made = timeline(TEXT, [], finish=False)
    made.update(20 * FRAME_MS)
    made.finish_segment(20 * FRAME_MS)
    (told,) = made.take_words()
    assert told.source is AlignmentSource.ESTIMATE and len(told.words) == 5


def test_a_segment_that_is_generated_again_begins_its_trail_again() -> None:
    made = timeline(TEXT, [0, 10, 20, 29], finish=False)
    for frame, place in enumerate([0, 0, 0, 4, 7, 12, 14, 19, 20, 22, 29], 1):
        made.update(frame * FRAME_MS, place)
    made.finish_segment(11 * FRAME_MS)
    assert times(made)["Well,"] == (0, 175)


def test_an_interruption_falls_where_the_model_was() -> None:
    text = TEXT
    made = timeline(text, [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 14, 16, 18, 19, 20], finish=False)
    # "Well," ends in the middle of frame 4, 225 ms; "hello" is from 325 to 525 ms.
    assert made.heard(text, 110, Snap.WORD, 0.5).text == ""
    assert made.heard(text, 115, Snap.WORD, 0.5).text == made.heard(text, 420, Snap.WORD, 0.5).text == "Well,"
    early = made.heard(text, 430, Snap.WORD, 0.5)
    assert early.text == 'Well, "hello"' and early.text + early.remaining == text
    assert early.kept_ms == 500  # whole frames of 525 ms
    late = made.heard(text, 17 * FRAME_MS, Snap.WORD, 0.5)
    assert late.text == 'Well, "hello" there'
    assert late.segments[0].frames * FRAME_MS <= 16 * FRAME_MS


@given(texts, st.lists(st.integers(0, 80), min_size=1, max_size=60), st.booleans(), st.floats(0, 4000), st.floats(0, 1))
def test_any_places_leave_words_in_order_and_the_text_whole(
    text: str, moves: list[int], finish: bool, played_ms: float, min_heard: float
) -> None:
    made, generated_ms = Timeline(TagMode.PERFORM, FRAME_MS), 0.0
    for segment in segments_of(text):
        made.add_segment(segment)
        if segment.speakable:
            for move in accumulate(moves, lambda at, step: at + step - 30):
                generated_ms += FRAME_MS
                made.update(generated_ms, max(0, min(len(segment.text) - 1, move)))
            if not finish:
                break
            made.finish_segment(len(moves) * FRAME_MS)
    words = made.words()
    assert all(0 <= word.start_ms <= word.end_ms <= generated_ms for word in words)
    assert all(a.start_ms <= b.start_ms and a.end_ms <= b.end_ms for a, b in pairwise(words))
    for snap in Snap:
        heard = made.heard(text, played_ms, snap, min_heard)
        assert heard.text + heard.remaining == text and heard.kept_ms <= generated_ms

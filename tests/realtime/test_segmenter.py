"""Segments: the same however the text was cut, nothing lost, nothing cut that belongs together, and in time."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from random import Random
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import Latency, TagMode
from realtime.characters import facts
from realtime.repertoire import Repertoire, Unread
from realtime.segmenter import IDLE_S, LONG_IDLE_S, LOW_LEAD_S, MAX_SEGMENT_CHARS, MIN_SEGMENT_CHARS, Segment, Segmenter
from tests.realtime.texts import Atom, atoms, cut_lists, random_text, single_units, spans, texts, utf16_pieces

LOW, BALANCED, QUALITY = Latency.LOW, Latency.BALANCED, Latency.QUALITY
PERFORM, LITERAL, STRIP = TagMode.PERFORM, TagMode.LITERAL, TagMode.STRIP
NO_LEAD, MUCH_LEAD = 0.0, 5.0
GAP_S = IDLE_S * 0.9
RANDOM_SPLITS = 3000

settings = st.tuples(
    st.sampled_from(Latency), st.sampled_from(TagMode), st.sampled_from((MIN_SEGMENT_CHARS, MAX_SEGMENT_CHARS))
)


def speak(
    pieces: list[str],
    latency: Latency = LOW,
    tags: TagMode = PERFORM,
    max_chars: int = MAX_SEGMENT_CHARS,
    gap_s: float = GAP_S,
) -> list[Segment]:
    """The segments of a turn whose deltas come at this gap, to a listener who always runs out."""
    segmenter, taken, now = Segmenter(latency, tags, max_chars), list[Segment](), 100.0
    for piece in pieces:
        segmenter.push(piece, now)
        taken += segmenter.take(now, NO_LEAD)
        now += gap_s
        taken += segmenter.take(now, NO_LEAD)
    segmenter.end()
    taken += segmenter.take(now, NO_LEAD)
    assert "".join(segment.raw for segment in taken) == segmenter.raw
    return taken


def raws(text: str, latency: Latency = LOW) -> list[str]:
    return [segment.raw for segment in speak([text], latency)]


def letters(text: str) -> str:
    return "".join(char for char in text if facts(char).speakable)


def check_random_splits(count: int, seed: int) -> None:
    """So many random cuttings of random texts, each with the segments of the uncut text."""
    rng = Random(seed)
    for _ in range(count):
        text = random_text(rng)
        latency, tags = rng.choice(list(Latency)), rng.choice(list(TagMode))
        cuts = [rng.randrange(2 * len(text) + 1) for _ in range(rng.randrange(40))]
        assert speak(utf16_pieces(text, cuts), latency, tags) == speak([text], latency, tags), (text, cuts)


@given(texts, cut_lists, settings)
def test_any_cutting_of_a_text_gives_the_same_segments(
    text: str, cuts: list[int], setting: tuple[Latency, TagMode, int]
) -> None:
    whole = speak([text], *setting)
    assert speak(utf16_pieces(text, cuts), *setting) == whole
    assert speak(single_units(text), *setting) == whole


def test_thousands_of_random_cuttings_give_the_same_segments() -> None:
    check_random_splits(RANDOM_SPLITS, seed=1)


@given(texts, settings)
def test_segments_tile_the_text_and_stay_below_the_bound(text: str, setting: tuple[Latency, TagMode, int]) -> None:
    segments = speak([text], *setting)
    assert "".join(segment.raw for segment in segments) == text
    assert [segment.index for segment in segments] == list(range(len(segments)))
    assert all(text[segment.start : segment.end] == segment.raw for segment in segments)
    assert all(0 < len(segment.raw) <= setting[2] for segment in segments)
    assert all(left.end == right.start for left, right in pairwise(segments))


@given(atoms, st.sampled_from(Latency), st.sampled_from(TagMode))
def test_nothing_that_belongs_together_is_cut(text_atoms: list[Atom], latency: Latency, tags: TagMode) -> None:
    text = "".join(atom.text for atom in text_atoms)
    starts = {segment.start for segment in speak([text], latency, tags)}
    literal = {pos for start, end, atom in spans(text_atoms) if atom.text[0] == "[" for pos in range(start, end)}
    inner = {pos for start, end, atom in spans(text_atoms) if atom.solid for pos in range(start + 1, end)}
    assert not starts & (inner - (literal if tags is LITERAL else set()))


@given(atoms, st.sampled_from(Latency), st.sampled_from(TagMode))
def test_the_engine_gets_every_letter_and_every_sound(text_atoms: list[Atom], latency: Latency, tags: TagMode) -> None:
    text = "".join(atom.text for atom in text_atoms)
    got = " ".join(segment.text.removeprefix(segment.prefix) for segment in speak([text], latency, tags))
    control = r"<\|speaker:\d+\|>" if tags is LITERAL else r"<\|speaker:\d+\|>|\[[^\]]*\]"
    assert letters(re.sub(control, "", got)) == letters(re.sub(control, "", text))
    sounds = r"\[(?:laugh|pause|sigh)\]"
    assert re.findall(sounds, got) == (re.findall(sounds, text) if tags is PERFORM else [])


@given(atoms, st.sampled_from(Latency))
def test_every_segment_begins_with_the_speaker_and_style_in_force(text_atoms: list[Atom], latency: Latency) -> None:
    text = "".join(atom.text for atom in text_atoms)
    for segment in speak([text], latency):
        speaker, style = None, ""
        for token in re.findall(r"<\|speaker:\d+\|>|\[(?!laugh|pause|sigh|emphasis)[^\]]*\]", text[: segment.start]):
            if token[0] == "<":
                style = style if token == speaker else ""
                speaker = token
            else:
                style = "" if token == "[normal]" else token
        if segment.speakable and segment.raw.lstrip()[0] not in "[<":
            assert segment.text.startswith((speaker or "") + (style and style + " ") + segment.raw.strip()[0])
            assert segment.text.count("<|speaker") == segment.raw.count("<|speaker") + (speaker is not None)


@given(texts, settings)
def test_only_what_can_be_heard_is_given_to_the_engine(text: str, setting: tuple[Latency, TagMode, int]) -> None:
    segments = speak([text], *setting)
    for segment in segments:
        sound = re.search(r"\[(laugh|pause|sigh)\]", segment.text)
        assert segment.speakable == bool(letters(segment.text.removeprefix(segment.prefix)) or sound)
    mute = [segment for segment in segments[:-1] if not segment.speakable]
    assert all(len(segment.raw) > setting[2] - 100 for segment in mute)  # only where the bound forced it


def test_the_work_for_a_long_turn_grows_with_its_length_only() -> None:
    def calls(chars: int) -> int:
        count = 0

        def profile(frame: FrameType, event: str, arg: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        text = (random_text(Random(3), 3000) * 2)[:chars]
        segmenter = Segmenter(LOW, PERFORM)
        sys.setprofile(profile)
        try:
            for char in text:
                segmenter.push(char, 0.0)
                segmenter.take(0.0, NO_LEAD)
                segmenter.deadline(0.0, NO_LEAD)
        finally:
            sys.setprofile(None)
        return count

    calls(1000)  # fills the tables of characters
    assert calls(20_000) < 5 * calls(5_000)


def test_a_word_that_never_ends_costs_no_more_than_a_text() -> None:
    segments = speak(["x" * 20_000])
    assert [len(segment.raw) for segment in segments[:3]] == [MAX_SEGMENT_CHARS] * 3


# What is first, and how long


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("Hello there, my friend, how are you?", "Hello there, "),
        ("Hello, my friend, how are you?", "Hello, my friend, "),
        ("Yes. I can do that.", "Yes. I can do that."),
        ("one two three four five six seven eight nine ten eleven", "one two three four five six "),
        ("The total is 1,000,000 dollars: a lot", "The total is 1,000,000 dollars: "),
        ("Dr. Smith is here; come in.", "Dr. Smith is here; "),
        ("你好，我是你的助手，请问", "你好，我是你的助手，"),
        ("今天天气很好，我们去公园吧。", "今天天气很好，"),
        ("مرحبا بك، كيف حالك؟", "مرحبا بك، "),
        ("नमस्ते मेरे दोस्त। आप कैसे हैं", "नमस्ते मेरे दोस्त। "),
        ("[laugh] Oh my, how nice", "[laugh] Oh my, "),
    ],
)
def test_low_latency_starts_with_a_clause_of_two_words(text: str, first: str) -> None:
    assert raws(text)[0] == first


def test_balanced_starts_with_five_words_and_quality_with_a_sentence() -> None:
    text = "Hello there, my friend, how are you today? I am fine, thanks."
    assert raws(text, BALANCED)[0] == "Hello there, my friend, how are you today? "
    assert raws("Yes, I think so, and you know it, too. Good.", BALANCED)[0] == "Yes, I think so, and you know it, "
    assert raws(text, QUALITY)[0] == "Hello there, my friend, how are you today? "


def test_a_text_without_marks_is_cut_by_its_length() -> None:
    thai = "สวัสดีครับวันนี้อากาศดีมากเราไปเดินเล่นที่สวนสาธารณะกันไหมครับผมเตรียมพร้อมแล้ว" * 6
    segments = raws(thai)
    assert len(segments[0]) <= 60
    assert all(len(segment) <= 300 for segment in segments)
    assert len(raws("我" * 300)[0]) == 20


def test_segments_grow() -> None:
    text = "This is a sentence, and it has some length, I would say. " * 40
    lengths = [len(segment) for segment in raws(text)]
    assert lengths[0] <= 60
    assert lengths[1] <= 120 and lengths[2] <= 160
    assert lengths[:4] == sorted(lengths[:4])
    assert all(120 <= length <= 300 for length in lengths[3:-1])


def test_a_long_sentence_is_cut_at_its_best_border() -> None:
    clause = "and so the story of the very old man went on for a long time without a single break of any kind"
    text = "Well then. " + clause + ", " + clause + ", " + clause + "."
    assert [segment[-2:] for segment in raws(text)] == [". ", ", ", ", ", "d."]


def test_short_exchanges_of_speakers_stay_together() -> None:
    text = "<|speaker:0|>Well hello. <|speaker:1|>Hi there. <|speaker:0|>Tea? <|speaker:1|>Yes. <|speaker:0|>Now? <|speaker:1|>Now."
    segments = speak([text])
    assert segments[0].raw.count("<|speaker") == 1
    assert max(segment.raw.count("<|speaker") for segment in segments) >= 3


def test_paragraphs_end_segments_earlier_than_sentences() -> None:
    start = "Well then. This is the second segment. " + "A third one, rather longer than the others were, of course. "
    tail = "Here is a fourth piece of some seventy characters, no more than that. "
    follow = "And there it goes on for a while, until nobody can remember how it began. " * 3
    assert raws(start + tail + follow)[3] != tail
    assert raws(start + tail.rstrip() + "\n\n" + follow)[3] == tail.rstrip() + "\n\n"


# Tags


def test_a_style_is_restored_in_every_segment_until_it_ends() -> None:
    text = "[whisper] Come a bit closer. I have a secret to tell you now. [normal] That was it, my dear old friend."
    assert [segment.text for segment in speak([text])] == [
        "[whisper] Come a bit closer.",
        "[whisper] I have a secret to tell you now.",
        "[normal] That was it, my dear old friend.",
    ]


def test_sounds_act_once_where_they_stand() -> None:
    text = "That is funny. [laugh] I had not thought of that before. Now let us go on, please."
    assert [segment.text for segment in speak([text])] == [
        "That is funny.",
        "[laugh] I had not thought of that before.",
        "Now let us go on, please.",
    ]


def test_a_sound_alone_at_the_end_is_spoken_and_a_style_is_not() -> None:
    for tag, speakable in (
        ("[laugh]", True),
        ("[pause]", True),
        ("[sad]", False),
        ("[emphasis]", False),
        ("<|speaker:1|>", False),
    ):
        segmenter = Segmenter(LOW, PERFORM)
        segmenter.push("That is it. ", 0)
        segmenter.flush()
        segmenter.push(tag, 0)
        segmenter.end()
        assert [segment.speakable for segment in segmenter.take(0, 0)] == [True, speakable], tag


def test_literal_and_stripped_tags_keep_no_state() -> None:
    text = "[sad] Hello there. I am here."
    assert [segment.text for segment in speak([text], tags=LITERAL)] == ["(sad) Hello there.", "I am here."]
    assert [segment.text for segment in speak([text], tags=STRIP)] == ["Hello there.", "I am here."]


def test_speakers_are_restored_whatever_becomes_of_tags() -> None:
    for tags in TagMode:
        assert speak(["<|speaker:3|>Hello there. I am here."], tags=tags)[1].text == "<|speaker:3|>I am here."


# Unspeakable text


@pytest.mark.parametrize("text", ["", " ", "\n\n", "...", "- —", "😀", "[sad]", "<|speaker:0|>", "[sad] ... "])
def test_a_turn_without_anything_to_say_has_no_segment_that_can_be_spoken(text: str) -> None:
    assert [segment.speakable for segment in speak([text])] == ([False] if text else [])


def test_marks_alone_go_with_what_follows() -> None:
    assert raws("... \n- \n😀 Hello there.") == ["... \n- \n😀 Hello there."]


def test_marks_without_end_are_cut_where_something_can_be_said_and_count_as_no_start() -> None:
    speakers = "<|speaker:0|><|speaker:1|>" * 22  # 572 characters
    assert [segment.speakable for segment in speak([speakers + "hello to you and all the rest"])] == [True, True]
    mute, first, *_ = speak(["-" * MAX_SEGMENT_CHARS + "- Hello there, my friend, and so on."])
    assert (mute.speakable, first.raw) == (False, "- Hello there, ")


def test_half_a_surrogate_pair_that_stays_alone_becomes_a_replacement_character() -> None:
    assert raws("Hi you\ud83d") == ["Hi you\ufffd"]
    assert [segment.raw for segment in speak(["Hi you\ud83d", " \ude00"])] == ["Hi you\ufffd \ufffd"]


# Time


def test_a_pause_speaks_the_whole_words_that_are_there() -> None:
    segmenter = Segmenter(LOW, PERFORM)
    segmenter.push("Hello wor", 10.0)
    assert segmenter.take(10.0, NO_LEAD) == []
    assert segmenter.deadline(10.0, NO_LEAD) == 10.0 + IDLE_S
    assert segmenter.take(10.0 + IDLE_S - 0.01, NO_LEAD) == []
    assert [segment.text for segment in segmenter.take(10.0 + IDLE_S, NO_LEAD)] == ["Hello"]
    assert segmenter.deadline(10.0 + IDLE_S, NO_LEAD) == 10.0 + LONG_IDLE_S
    assert [segment.text for segment in segmenter.take(10.0 + LONG_IDLE_S, NO_LEAD)] == ["wor"]
    assert segmenter.deadline(10.0 + LONG_IDLE_S, NO_LEAD) is None


def test_what_is_ready_comes_before_what_a_pause_would_add() -> None:
    segmenter = Segmenter(LOW, PERFORM)
    segmenter.push("Hello there, my fri", 10.0)
    assert [segment.raw for segment in segmenter.take(11.0, NO_LEAD)] == ["Hello there, "]
    assert segmenter.take(11.0, MUCH_LEAD) == []
    assert [segment.raw for segment in segmenter.take(11.0, NO_LEAD)] == ["my "]


@pytest.mark.parametrize(
    ("half", "rest", "cut"), [("ok🇩", "🇪 bye", "ok"), ("ok\r", "\nbye", "ok"), ("ok👩\u200d", "🚀 bye", "ok")]
)
def test_flush_does_not_cut_a_grapheme(half: str, rest: str, cut: str) -> None:
    segmenter = Segmenter(LOW, PERFORM)
    segmenter.push(half, 0.0)
    segmenter.flush()
    segmenter.push(rest, 0.0)
    segmenter.end()
    assert [segment.raw for segment in segmenter.take(0.0, NO_LEAD)] == [cut, (half + rest).removeprefix(cut)]


def test_a_pause_changes_nothing_while_the_listener_has_enough() -> None:
    segmenter = Segmenter(LOW, PERFORM)
    segmenter.push("Hello ", 10.0)
    assert segmenter.take(20.0, MUCH_LEAD) == []
    assert segmenter.deadline(20.0, MUCH_LEAD) == pytest.approx(20.0 + MUCH_LEAD - LOW_LEAD_S)
    assert len(segmenter.take(20.0, LOW_LEAD_S)) == 1


@given(texts, st.floats(0, 3), st.floats(0, 1))
def test_the_deadline_is_when_take_gives_more(text: str, wait_s: float, lead_s: float) -> None:
    segmenter = Segmenter(LOW, PERFORM)
    segmenter.push(text, 50.0)
    segmenter.take(50.0 + wait_s, lead_s)
    now = 50.0 + wait_s
    for _ in range(4):
        deadline = segmenter.deadline(now, lead_s)
        if deadline is None:
            assert segmenter.take(now + 1000, 0.0) == []
            break
        assert deadline > now
        lead_s = max(0.0, lead_s - (deadline - now) - 1e-9)
        now = deadline
        assert segmenter.take(now, lead_s) != []


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("Hello [lau", ["Hello"]),
        ("Hello there[whis", ["Hello", "there"]),
        ("Hello [whisper]", ["Hello"]),
        ("Hello <|speaker:", ["Hello"]),
        ("Hello <|speaker:1|>", ["Hello"]),
        ("Hello [laugh]", ["Hello [laugh]"]),
        ("It costs 3.", ["It costs", "3."]),
        ("Hi 👩\u200d", ["Hi"]),
        ("你好吗", ["你好吗"]),
        ("ไปเที่ยวกัน", ["ไปเที่ยวกัน"]),
        ("How are you?", ["How are you?"]),
        ("[laugh", []),
        (" ... ", []),
    ],
)
def test_no_pause_is_long_enough_for_half_a_tag_or_a_tag_without_its_word(text: str, spoken: list[str]) -> None:
    segmenter, now = Segmenter(QUALITY, PERFORM), 0.0
    segmenter.push(text, now)
    taken = []
    for _ in range(100):
        now += 0.1
        taken += segmenter.take(now, NO_LEAD)
    assert [segment.text for segment in taken] == spoken
    segmenter.push("gh] ok", now)
    segmenter.end()
    assert "".join(segment.raw for segment in taken + segmenter.take(now, NO_LEAD)) == text + "gh] ok"


@given(texts, cut_lists, st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1), st.booleans()), min_size=31, max_size=31))
def test_nothing_is_lost_whenever_it_comes_and_whatever_is_flushed(
    text: str, cuts: list[int], steps: list[tuple[float, float, bool]]
) -> None:
    segmenter, taken, now = Segmenter(LOW, PERFORM), list[Segment](), 0.0
    for piece, (gap_s, lead_s, flush) in zip(utf16_pieces(text, cuts), steps, strict=False):
        segmenter.push(piece, now)
        if flush:
            segmenter.flush()
        now += gap_s
        taken += segmenter.take(now, lead_s)
    assert all(segment.speakable for segment in taken)
    segmenter.end()
    taken += segmenter.take(now, NO_LEAD)
    assert "".join(segment.raw for segment in taken) == segmenter.raw
    tags = [match.span() for match in re.finditer(r"\[\w+\]|<\|speaker:\d+\|>", text)]
    assert not [segment for segment in taken for start, end in tags if start < segment.start < end]


def test_flush_speaks_what_is_there_and_the_turn_goes_on() -> None:
    segmenter = Segmenter(QUALITY, PERFORM)
    segmenter.push("Wait a mom", 0.0)
    segmenter.flush()
    segmenter.push("ent please", 0.0)
    segmenter.end()
    assert [segment.raw for segment in segmenter.take(0.0, MUCH_LEAD)] == ["Wait a mom", "ent please"]


def test_flush_without_anything_to_say_does_nothing() -> None:
    segmenter = Segmenter(LOW, PERFORM)
    segmenter.flush()
    segmenter.push(" [sad] ", 0.0)
    segmenter.flush()
    segmenter.push("Oh.", 0.0)
    segmenter.end()
    segmenter.flush()
    assert [segment.raw for segment in segmenter.take(0.0, NO_LEAD)] == [" [sad] Oh."]


def test_end_speaks_the_rest_at_once_and_only_once() -> None:
    segmenter = Segmenter(QUALITY, PERFORM)
    segmenter.push("Bye [now", 0.0)
    segmenter.end()
    segmenter.end()
    assert segmenter.ended
    assert segmenter.deadline(5.0, MUCH_LEAD) == 5.0
    assert [segment.text for segment in segmenter.take(0.0, MUCH_LEAD)] == ["Bye (now"]
    assert segmenter.deadline(5.0, MUCH_LEAD) is None
    with pytest.raises(ValueError, match="after the end"):
        segmenter.push("x", 0.0)


def test_a_bound_that_a_tag_could_exceed_is_refused() -> None:
    with pytest.raises(ValueError, match=f"max_segment_chars=50 is below {MIN_SEGMENT_CHARS}"):
        Segmenter(LOW, PERFORM, max_segment_chars=50)


# Text that the checkpoint cannot read


LATIN = Repertoire(["Latin"])


def speak_latin(text: str, tags: TagMode = PERFORM, latency: Latency = LOW) -> list[Segment]:
    segmenter = Segmenter(latency, tags, repertoire=LATIN)
    segmenter.push(text, 0.0)
    segmenter.end()
    taken = segmenter.take(0.0, NO_LEAD)
    assert "".join(segment.raw for segment in taken) == text
    return taken


def test_words_in_another_script_are_in_the_raw_text_and_not_in_the_engines() -> None:
    (segment,) = speak_latin("I said Привет to you.", latency=QUALITY)
    assert segment.raw == "I said Привет to you."
    assert segment.text == "I said to you."
    assert segment.unread == (Unread("Cyrillic", 7, 13),)


def test_unread_stretches_are_placed_in_the_turn() -> None:
    segments = speak_latin("Here is one sentence. And here Привет, another one.")
    text = "".join(segment.raw for segment in segments)
    places = [stretch for segment in segments for stretch in segment.unread]
    assert [text[place.start : place.end] for place in places] == ["Привет"]


def test_a_segment_of_another_script_alone_cannot_be_spoken() -> None:
    (segment,) = speak_latin("Привет, мир!")
    assert (segment.speakable, segment.text, segment.prefix) == (False, "", "")
    assert segment.unread == (Unread("Cyrillic", 0, 11),)


def test_a_tag_before_words_that_are_not_read_acts_on_what_follows() -> None:
    segments = speak_latin("<|speaker:1|>[whisper] Привет, мир. And now to you, my friend.")
    spoken = [segment.text for segment in segments if segment.speakable]
    assert spoken[0].startswith("<|speaker:1|>[whisper] And now")


def test_a_tag_in_another_script_does_nothing() -> None:
    segments = speak_latin("[whisper] Come here, you. [шёпот] Go away, you. [笑] Bye now.")
    assert all(LATIN.reads_all(segment.text) for segment in segments)
    assert [s.text for s in segments][-1].startswith("[whisper] ")
    assert {place.script for segment in segments for place in segment.unread} == {"Cyrillic", "Han"}


def test_a_sound_in_another_script_alone_cannot_be_spoken() -> None:
    assert [segment.speakable for segment in speak_latin("[笑]")] == [False]
    assert [segment.speakable for segment in speak(["[笑]"])] == [True]


def test_nothing_is_told_of_tags_that_are_stripped() -> None:
    (segment,) = speak_latin("Come [шёпот] here.", STRIP)
    assert (segment.text, segment.unread) == ("Come here.", ())


def test_words_that_are_not_read_do_not_count_for_the_first_segment() -> None:
    """A listener would get two letters of speech and then wait for the next segment."""
    first = speak_latin("Раз, два, три, OK, let us go on, and so on and so forth.")[0]
    assert first.text == "OK, let us go on,"


def test_flush_speaks_nothing_where_all_that_came_cannot_be_read() -> None:
    segmenter = Segmenter(LOW, PERFORM, repertoire=LATIN)
    segmenter.push("Привет, мир. ", 0.0)
    segmenter.flush()
    assert segmenter.take(10.0, NO_LEAD) == []


def test_without_declared_scripts_all_of_them_are_given() -> None:
    (segment,) = speak(["I said Привет to you."], QUALITY)
    assert (segment.text, segment.unread) == ("I said Привет to you.", ())


@given(texts, st.sampled_from(Latency), st.sampled_from(TagMode))
def test_nothing_is_lost_and_no_other_letter_is_given_of_any_text(text: str, latency: Latency, tags: TagMode) -> None:
    for segment in speak_latin(text, tags, latency):
        assert LATIN.reads_all(segment.text)
        assert bool(segment.text) == segment.speakable


@given(texts, st.sampled_from(Latency))
def test_how_a_text_in_many_scripts_is_cut_into_deltas_changes_nothing(text: str, latency: Latency) -> None:
    whole = speak_latin(text, PERFORM, latency)
    segmenter = Segmenter(latency, PERFORM, repertoire=LATIN)
    for char in text:
        segmenter.push(char, 0.0)
    segmenter.end()
    assert segmenter.take(0.0, MUCH_LEAD) == whole

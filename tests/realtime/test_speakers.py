"""Speakers who alternate in one turn: what each of them says, and how, is the same in every segment by itself as in the whole turn.

The engine reads one segment at a time. What it is told there must be what protocol section 6a makes of the turn, however it was cut.
"""

from __future__ import annotations

import re
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import Latency, Snap, TagMode
from protocol.messages import Alignment
from realtime.alignment import Timeline
from realtime.segmenter import MIN_SEGMENT_CHARS, Segment, Segmenter
from tests.realtime.stage import Stage

PERFORM = TagMode.PERFORM
FRAME_MS = 50.0

Line = tuple[str, str | None, str | None]  # words, speaker, style

_TOKEN = re.compile(r"<\|speaker:(\d+)\|>|\[([^\]]+)\]|([A-Za-z]+)")


def lines(text: str) -> list[Line]:
    """Who says which words and how, by the rules of the protocol and nothing else."""
    said: list[Line] = []
    speaker: str | None = None
    style: str | None = None
    for found in _TOKEN.finditer(text):
        named, tag, word = found.groups()
        if named is not None:
            style = style if named == speaker else None
            speaker = named
        elif tag is not None:
            style = None if tag == "normal" else style if tag in ("laugh", "pause", "emphasis") else tag
        else:
            said.append((word, speaker, style))
    return [
        (" ".join(word for word, _, _ in group), *delivery)
        for delivery, group in groupby(said, key=lambda line: line[1:])
    ]


def joined(pieces: list[Line]) -> list[Line]:
    """Neighbours that are said alike, as one."""
    return [
        (" ".join(words for words, _, _ in group), *delivery)
        for delivery, group in groupby(pieces, lambda line: line[1:])
    ]


def segments_of(text: str, latency: Latency = Latency.LOW, max_chars: int = 600) -> list[Segment]:
    segmenter = Segmenter(latency, PERFORM, max_chars)
    segmenter.push(text, 0.0)
    segmenter.end()
    return segmenter.take(0.0, 0.0)


def as_the_engine_reads(segments: list[Segment]) -> list[Line]:
    return joined([line for segment in segments for line in lines(segment.text)])


LONG = "And so they went on and on without a word, until the end."
sentences = st.sampled_from(
    ["Yes.", "Come a little closer, please.", "I said no, and I meant it!", "Why?", "well then", LONG]
)
marks = st.sampled_from(
    ["<|speaker:0|>", "<|speaker:1|>", "[whisper]", "[loud]", "[slow]", "[normal]", "[laugh]", "[pause]", "[emphasis]"]
)
gaps = st.sampled_from(["", " ", "\n"])
turns = st.lists(
    st.tuples(st.lists(st.tuples(marks, gaps).map("".join), max_size=3).map("".join), sentences),
    min_size=1,
    max_size=12,
)
scripts = turns.map(lambda parts: " ".join(tags + words for tags, words in parts))


@given(scripts, st.sampled_from(Latency), st.sampled_from((MIN_SEGMENT_CHARS, 600)))
def test_every_word_is_said_by_the_same_speaker_in_the_same_way_however_the_turn_is_cut(
    text: str, latency: Latency, max_chars: int
) -> None:
    assert as_the_engine_reads(segments_of(text, latency, max_chars)) == lines(text)


@given(scripts, st.floats(0, 1))
def test_what_the_conversation_keeps_of_a_cut_turn_is_said_as_it_was_heard(text: str, share: float) -> None:
    timeline = Timeline(PERFORM, FRAME_MS)
    for segment in segments_of(text):
        timeline.add_segment(segment)
        if segment.speakable:
            timeline.finish_segment(40 * FRAME_MS)
    heard = timeline.heard(text, share * timeline.audio_ms, Snap.WORD, 0.5)
    kept = joined([line for part in heard.segments for line in lines(part.text)])
    assert kept == lines(heard.text)


DIALOGUE = (
    "<|speaker:0|>[whisper] Come closer to me, my friend. <|speaker:1|>[loud] Why on earth would I do that? "
    "<|speaker:0|>[whisper] Because I say so, that is why. <|speaker:1|> Then I shall come. <|speaker:0|> There you are."
)


@pytest.mark.parametrize("latency", Latency)
def test_each_speakers_tags_are_his_own(latency: Latency) -> None:
    assert as_the_engine_reads(segments_of(DIALOGUE, latency)) == [
        ("Come closer to me my friend", "0", "whisper"),
        ("Why on earth would I do that", "1", "loud"),
        ("Because I say so that is why", "0", "whisper"),
        ("Then I shall come", "1", None),
        ("There you are", "0", None),
    ]


def test_a_style_ends_with_its_speakers_line_and_is_not_there_when_he_comes_back() -> None:
    """Protocol 6a: a style holds until another speaker. Who whispers again says so again."""
    text = "<|speaker:0|>[whisper] Come closer to me please. <|speaker:1|> Why would I do such a thing? <|speaker:0|> Because I say so."
    assert [segment.text for segment in segments_of(text)] == [
        "<|speaker:0|>[whisper] Come closer to me please.",
        "<|speaker:1|> Why would I do such a thing?",
        "<|speaker:0|> Because I say so.",
    ]


def test_a_speaker_named_on_every_line_goes_on_as_before() -> None:
    text = "<|speaker:0|>[whisper] Come closer to me please.\n<|speaker:0|> And sit down with us now.\n<|speaker:1|>No I will not."
    assert [segment.text for segment in segments_of(text)] == [
        "<|speaker:0|>[whisper] Come closer to me please.",
        "<|speaker:0|>[whisper] And sit down with us now.",
        "<|speaker:1|>No I will not.",
    ]


def test_a_long_line_is_said_by_its_speaker_in_its_style_to_the_end() -> None:
    line = "This goes on for a while, and it is all one line of one speaker. " * 6
    segments = segments_of(f"<|speaker:2|>[slow] {line}<|speaker:3|> And that is not.")
    assert len(segments) > 4
    for segment in segments[:-1]:
        assert segment.text.startswith("<|speaker:2|>[slow] ")
    assert segments[-1].text == "<|speaker:3|> And that is not."


def test_the_alignment_names_the_speaker_of_each_word() -> None:
    stage = Stage()
    stage.configure(alignment="word")
    stage.say("<|speaker:4|>[whisper] One two three four. <|speaker:1|> Five six seven eight. <|speaker:4|> Nine ten.")
    stage.run_until_done()
    speakers = {item.text: item.speaker for event in stage.all(Alignment) for item in event.items}
    assert [speakers[word] for word in ("One", "four.", "Five", "eight.", "Nine", "ten.")] == [4, 4, 1, 1, 4, 4]


def test_a_turn_begins_without_the_speaker_and_the_style_of_the_one_before() -> None:
    """What carries over is in the codes that were heard; the text of a turn is its own."""
    stage = Stage()
    for text in ("<|speaker:4|>[whisper] One two three.", "Four five six.", "And seven."):
        stage.say(text)
        stage.run_until_done()
        stage.run(10.0)
    history = stage.engine.opened[-1].conversation.history
    assert [segment.text for segment in history] == ["<|speaker:4|>[whisper] One two three.", "Four five six."]

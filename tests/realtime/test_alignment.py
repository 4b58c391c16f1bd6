"""When words are heard, and what of a turn was."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.config import Latency, Snap, TagMode
from realtime.alignment import Alignment, Heard, Timeline, Word, units
from realtime.repertoire import EVERYTHING, Repertoire
from realtime.segmenter import Segment, Segmenter
from tests.realtime.texts import texts

FRAME_MS = 1024 / 22.05
PERFORM, LITERAL, STRIP = TagMode.PERFORM, TagMode.LITERAL, TagMode.STRIP

frame_counts = st.lists(st.integers(0, 60), min_size=1, max_size=20)
snaps = st.sampled_from(Snap)
shares = st.floats(0, 1)


def segments_of(text: str, tags: TagMode = PERFORM, repertoire: Repertoire = EVERYTHING) -> list[Segment]:
    segmenter = Segmenter(Latency.LOW, tags, repertoire=repertoire)
    segmenter.push(text, 0.0)
    segmenter.end()
    return segmenter.take(0.0, 0.0)


def spoken(
    text: str, frames: list[int], tags: TagMode = PERFORM, running: int | None = None, finish: bool = True
) -> Timeline:
    """A turn whose segments got these frames, in turn. `running`: the segment that is still being generated, all later ones wait."""
    timeline, generated_ms = Timeline(tags, FRAME_MS), 0.0
    speakable = 0
    for segment in segments_of(text, tags):
        timeline.add_segment(segment)
        if segment.speakable:
            count = frames[speakable % len(frames)]
            if running is None or speakable < running:
                timeline.finish_segment(count * FRAME_MS)
                generated_ms += count * FRAME_MS
            elif speakable == running:
                generated_ms += count * FRAME_MS
                timeline.update(generated_ms)
            speakable += 1
    if finish and running is None:
        timeline.finish()
    return timeline


def heard(timeline: Timeline, text: str, played_ms: float, snap: Snap = Snap.WORD, min_heard: float = 0.5) -> Heard:
    return timeline.heard(text, played_ms, snap, min_heard)


def ends(timeline: Timeline) -> dict[str, int]:
    return {word.text: word.end_ms for word in timeline.words()}


# Words


def words_of(text: str, tags: TagMode = PERFORM) -> list[str]:
    return [unit.text for segment in segments_of(text, tags) for unit in units(segment, tags) if unit.is_word]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('Well, "hello" there - friend!', ["Well,", '"hello"', "there", "friend!"]),
        ("[sad] so <|speaker:1|>[laugh] it is", ["so", "it", "is"]),
        ("pay $1,234.56 at https://x.org/a?b now", ["pay", "$1,234.56", "at", "https://x.org/a?b", "now"]),
        ("你好，世界。", ["你", "好，", "世", "界。"]),
        ("GPT模型", ["GPT", "模", "型"]),
        ("well-known word—play", ["well-known", "word—", "play"]),
        ("vraiment\u00a0! oui 😀", ["vraiment\u00a0!", "oui"]),
        ("see [the page](http://x.org)", ["see", "[the", "page](http://x.org)"]),
        ("un[pause]even", ["un", "even"]),
    ],
)
def test_words_come_with_their_marks_and_without_tags(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_literal_tags_are_words() -> None:
    assert words_of("so [laugh] it", LITERAL) == ["so", "[laugh]", "it"]
    assert words_of("so [laugh] it", STRIP) == ["so", "it"]


def test_words_know_their_speaker() -> None:
    timeline = spoken("Oh. <|speaker:1|>Hi you there. <|speaker:0|>And me.", [30])
    assert [(word.text, word.speaker) for word in timeline.words()] == [
        ("Oh.", None),
        ("Hi", 1),
        ("you", 1),
        ("there.", 1),
        ("And", 0),
        ("me.", 0),
    ]


@given(texts, frame_counts, st.sampled_from(TagMode), st.one_of(st.none(), st.integers(0, 5)))
def test_words_are_in_order_inside_the_audio_and_quote_the_text(
    text: str, frames: list[int], tags: TagMode, running: int | None
) -> None:
    timeline = spoken(text, frames, tags, running)
    words = timeline.words()
    assert all(text[word.char_start : word.char_end] == word.text != "" for word in words)
    assert all(0 <= word.start_ms <= word.end_ms <= timeline.audio_ms for word in words)
    assert all(left.end_ms <= right.start_ms and left.char_end <= right.char_start for left, right in pairwise(words))


@given(texts, frame_counts)
def test_a_finished_turn_has_every_word(text: str, frames: list[int]) -> None:
    expected = [unit.text for segment in segments_of(text) for unit in units(segment, PERFORM) if unit.is_word]
    assert [word.text for word in spoken(text, frames).words()] == expected


def test_pauses_and_sounds_stand_between_words() -> None:
    def gap(text: str) -> int:
        first, second = spoken(text, [60]).words()[:2]
        return second.start_ms - first.end_ms

    assert gap("one two.") < gap("one, two.") < gap("one [pause 2s] two.")


def test_a_pause_before_a_tag_is_made_once() -> None:
    oh, one, two, three = spoken("Oh, [sad] one two three", [60]).words()
    assert one.start_ms - oh.end_ms > 200
    assert two.start_ms - one.end_ms < 5 and three.start_ms - two.end_ms < 5


def test_a_segment_that_goes_on_longer_than_expected_is_stretched() -> None:
    words = spoken("Hello you there, my friend", [200], running=0).words()
    assert words[-1].end_ms > 0.8 * 200 * FRAME_MS


def test_a_long_word_takes_more_of_the_audio_than_a_short_one() -> None:
    first, second = spoken("a extraordinarily", [40]).words()
    assert (second.end_ms - second.start_ms) > 3 * (first.end_ms - first.start_ms)


def test_the_rate_of_what_came_is_expected_of_what_comes() -> None:
    text = "This is one segment. This is one segment."
    assert len(segments_of(text)) == 2
    slow, fast = spoken(text, [80], running=1), spoken(text, [20], running=1)
    assert slow.rate > 1 > fast.rate
    assert Timeline(PERFORM, FRAME_MS, rate=0.7).rate == 0.7


def test_pending_audio_shrinks_as_it_comes() -> None:
    timeline = Timeline(PERFORM, FRAME_MS)
    for segment in segments_of("Hello there. And now something else."):
        timeline.add_segment(segment)
    before_ms = timeline.pending_ms
    assert 1500 < before_ms < 5000
    timeline.update(500.0)
    assert timeline.pending_ms == pytest.approx(before_ms - 500)
    timeline.finish_segment(600.0)
    timeline.finish_segment(2000.0)
    assert timeline.pending_ms == 0
    assert timeline.audio_ms == 2600


def test_finishing_more_segments_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="no segment is open"):
        spoken("Hello there.", [10]).finish_segment(100.0)


def test_audio_may_shrink_when_a_segment_is_generated_again() -> None:
    timeline = Timeline(PERFORM, FRAME_MS)
    timeline.add_segment(segments_of("Hello there.")[0])
    timeline.update(400.0)
    timeline.update(100.0)
    assert timeline.audio_ms == 100.0


def test_words_are_told_as_they_come_and_once_more_when_they_are_final() -> None:
    timeline = Timeline(PERFORM, FRAME_MS)
    for segment in segments_of("Hello there. And now something else."):
        timeline.add_segment(segment)
    told: list[Alignment] = []
    for frame in range(1, 13):
        timeline.update(frame * FRAME_MS)
        told += timeline.take_words()
    assert [(word.text, item.final) for item in told for word in item.words] == [("Hello", False)]
    timeline.finish_segment(30 * FRAME_MS)
    (item,) = timeline.take_words()
    assert item.final and [word.text for word in item.words] == ["Hello", "there."]
    assert item.words[-1].end_ms > 20 * FRAME_MS
    assert timeline.take_words() == []


@given(texts, frame_counts)
def test_what_was_told_last_is_what_is_known_at_the_end(text: str, frames: list[int]) -> None:
    timeline, told, total = Timeline(PERFORM, FRAME_MS), dict[int, Word](), 0
    for index, segment in enumerate(segments_of(text)):
        timeline.add_segment(segment)
        if not segment.speakable:
            continue
        for _ in range(frames[index % len(frames)]):
            total += 1
            timeline.update(total * FRAME_MS)
            for item in timeline.take_words():
                told |= {word.char_start: word for word in item.words}
        timeline.finish_segment(frames[index % len(frames)] * FRAME_MS)
    for item in timeline.take_words():
        told |= {word.char_start: word for word in item.words}
    assert list(told.values()) == timeline.words()


# Heard


@given(texts, frame_counts, st.sampled_from(TagMode), st.one_of(st.none(), st.integers(0, 5)), shares, snaps, shares)
def test_heard_and_remaining_are_the_input_and_what_is_kept_exists(
    text: str, frames: list[int], tags: TagMode, running: int | None, share: float, snap: Snap, min_heard: float
) -> None:
    timeline = spoken(text, frames, tags, running)
    played_ms = share * timeline.audio_ms * 1.1
    result = heard(timeline, text, played_ms, snap, min_heard)
    assert result.text + result.remaining == text
    assert result.text == text[: result.char_end]
    assert result.ms <= min(played_ms, timeline.audio_ms)
    assert result.kept_ms <= timeline.audio_ms
    assert result.kept_ms == int(sum(part.frames for part in result.segments) * FRAME_MS + 1e-6)
    assert all(part.frames >= 1 and part.text for part in result.segments)
    assert all(part.whole for part in result.segments[:-1])


@given(texts, frame_counts, st.sampled_from((LITERAL, STRIP)), shares, shares)
def test_no_more_than_the_rest_of_one_word_is_kept_beyond_what_was_played(
    text: str, frames: list[int], tags: TagMode, share: float, min_heard: float
) -> None:
    timeline = spoken(text, frames, tags)
    played_ms = share * timeline.audio_ms
    longest_ms = max((word.end_ms - word.start_ms + 1 for word in timeline.words()), default=0)
    to_word = heard(timeline, text, played_ms, Snap.WORD, min_heard).kept_ms
    to_frame = heard(timeline, text, played_ms, Snap.FRAME, min_heard).kept_ms
    assert to_word <= played_ms + max(longest_ms, FRAME_MS)  # one frame is the least that can be kept
    assert to_frame <= played_ms + FRAME_MS


@given(
    texts,
    frame_counts,
    st.one_of(st.none(), st.integers(0, 5)),
    st.lists(shares, min_size=2, max_size=12),
    snaps,
    shares,
)
def test_who_hears_longer_hears_no_less(
    text: str, frames: list[int], running: int | None, moments: list[float], snap: Snap, min_heard: float
) -> None:
    timeline = spoken(text, frames, running=running)
    results = [heard(timeline, text, share * timeline.audio_ms, snap, min_heard) for share in sorted(moments)]
    for less, more in pairwise(results):
        assert less.char_end <= more.char_end
        assert less.kept_ms <= more.kept_ms
        assert len(less.segments) <= len(more.segments)


@given(texts, frame_counts, snaps)
def test_a_turn_that_was_played_to_its_end_was_heard_whole(text: str, frames: list[int], snap: Snap) -> None:
    timeline = spoken(text, frames)
    result = heard(timeline, text, timeline.audio_ms, snap)
    if timeline.audio_ms:
        assert result.text == text and result.remaining == ""
        given_to_engine = [segment.text for segment in segments_of(text) if segment.speakable]
        assert [part.text for part in result.segments if part.whole] == [part.text for part in result.segments]
        assert set(part.text for part in result.segments) <= set(given_to_engine)
    else:
        assert result == Heard(0, 0, "", text, (), 0)


@given(texts, frame_counts, snaps, shares)
def test_nothing_played_is_nothing_heard(text: str, frames: list[int], snap: Snap, min_heard: float) -> None:
    for played_ms in (0.0, -5.0):
        assert heard(spoken(text, frames), text, played_ms, snap, min_heard) == Heard(0, 0, "", text, (), 0)


def test_a_word_counts_when_enough_of_it_was_heard() -> None:
    text = "Hello beautiful world"
    timeline = spoken(text, [50])
    start_ms, end_ms = next((word.start_ms, word.end_ms) for word in timeline.words() if word.text == "beautiful")
    for share, expected in ((0.45, "Hello"), (0.55, "Hello beautiful")):
        assert heard(timeline, text, start_ms + share * (end_ms - start_ms)).text == expected
    assert heard(timeline, text, start_ms + 0.55 * (end_ms - start_ms), min_heard=0.9).text == "Hello"
    assert heard(timeline, text, start_ms + 1, min_heard=0.0).text == "Hello beautiful"


def test_the_audio_is_kept_to_the_words_end_or_to_the_frame() -> None:
    text = "Hello beautiful world"
    timeline = spoken(text, [50])
    (_, word, _) = timeline.words()
    played_ms = word.start_ms + 0.6 * (word.end_ms - word.start_ms)
    to_word, to_frame = heard(timeline, text, played_ms), heard(timeline, text, played_ms, Snap.FRAME)
    assert word.end_ms - FRAME_MS <= to_word.kept_ms <= word.end_ms
    assert played_ms - FRAME_MS - 1 <= to_frame.kept_ms <= played_ms
    assert to_word.segments[0].frames == int(word.end_ms / FRAME_MS)


def test_a_tag_belongs_to_the_word_it_precedes() -> None:
    text = "[sad] Oh my. [laugh] <|speaker:1|>Well then."
    timeline = spoken(text, [60])
    assert heard(timeline, text, ends(timeline)["my."]).text == "[sad] Oh my."
    assert heard(timeline, text, ends(timeline)["Well"]).text == "[sad] Oh my. [laugh] <|speaker:1|>Well"


def test_a_sound_at_the_end_is_heard_when_it_was() -> None:
    text = "Oh my [laugh] "
    timeline = spoken(text, [60], finish=False)
    assert heard(timeline, text, ends(timeline)["my"] + 50).text == "Oh my"
    assert heard(timeline, text, timeline.audio_ms - 100).text == "Oh my [laugh]"
    alone = spoken("[laugh] ...", [20])
    assert heard(alone, "[laugh] ...", 19 * FRAME_MS).text == "[laugh] ..."
    assert alone.words() == []


def test_what_follows_the_last_word_is_heard_when_a_completed_turn_is_over() -> None:
    text = "Oh my! 😀 [sad]\n"
    for finish, expected in ((True, text), (False, "Oh my!")):
        timeline = spoken(text, [60], finish=finish)
        assert heard(timeline, text, timeline.audio_ms).text == expected
        assert heard(timeline, text, timeline.audio_ms + 10_000).ms == int(timeline.audio_ms)


def test_text_that_no_segment_has_yet_remains() -> None:
    text = "Hello there. And"
    segmenter = Segmenter(Latency.LOW, PERFORM)
    segmenter.push(text, 0.0)
    timeline = Timeline(PERFORM, FRAME_MS)
    for segment in segmenter.take(0.0, 5.0):
        timeline.add_segment(segment)
    timeline.finish_segment(2000.0)
    result = heard(timeline, segmenter.raw, 2000.0)
    assert (result.text, result.remaining) == ("Hello there.", " And")


def test_the_history_keeps_whole_segments_as_they_were_and_the_cut_one_with_its_prefix() -> None:
    text = "<|speaker:1|>[whisper] Hello there. Come a bit closer, please."
    timeline = spoken(text, [40])
    result = heard(timeline, text, ends(timeline)["bit"])
    first, second = result.segments
    assert (first.text, first.whole, first.frames) == ("<|speaker:1|>[whisper] Hello there.", True, 40)
    assert (second.text, second.whole) == ("<|speaker:1|>[whisper] Come a bit", False)
    assert second.frames == int((ends(timeline)["bit"] - 40 * FRAME_MS) / FRAME_MS)
    assert result.kept_ms == int((40 + second.frames) * FRAME_MS)


def test_the_heard_part_follows_the_tag_mode() -> None:
    text = "Well [sad] this is what you get today"
    for tags, expected in ((PERFORM, "Well [sad] this is"), (LITERAL, "Well (sad) this is"), (STRIP, "Well this is")):
        timeline = spoken(text, [80], tags)
        assert heard(timeline, text, ends(timeline)["is"]).segments[0].text == expected


def test_a_segment_without_audio_is_passed_over() -> None:
    text = "Hello there. This one fails. And this works."
    assert len(segments_of(text)) == 3
    timeline = spoken(text, [20, 0, 40])
    at_border = heard(timeline, text, 20 * FRAME_MS)
    assert at_border.text == "Hello there."
    later = heard(timeline, text, 45 * FRAME_MS)
    assert later.text.startswith("Hello there. This one fails. And")
    assert [part.segment.index for part in later.segments] == [0, 2]


def test_only_the_sane_part_of_a_segment_is_kept_and_its_words_lie_there() -> None:
    text = "Hello there my friend"
    timeline = Timeline(PERFORM, FRAME_MS)
    timeline.add_segment(segments_of(text)[0])
    timeline.finish_segment(100 * FRAME_MS, sane_ms=30 * FRAME_MS)
    assert timeline.words()[-1].end_ms <= 30 * FRAME_MS
    result = heard(timeline, text, 90 * FRAME_MS)
    assert (result.text, result.segments[0].frames) == (text, 30)
    assert timeline.audio_ms == 100 * FRAME_MS


def test_a_segment_that_cannot_be_spoken_completes_itself() -> None:
    segmenter = Segmenter(Latency.LOW, PERFORM)
    segmenter.push("Hello there. ", 0.0)
    segmenter.flush()
    segmenter.push("...", 0.0)
    segmenter.end()
    timeline = Timeline(PERFORM, FRAME_MS)
    for segment in segmenter.take(0.0, 0.0):
        timeline.add_segment(segment)
    timeline.finish_segment(1000.0)
    timeline.finish()
    assert heard(timeline, segmenter.raw, 1000.0).text == "Hello there. ..."


# Text that the checkpoint cannot read


LATIN = Repertoire(["Latin"])


def latin(text: str, frames: int = 20, finish: bool = True) -> Timeline:
    """A turn of a checkpoint that reads Latin alone."""
    timeline = Timeline(PERFORM, FRAME_MS, repertoire=LATIN)
    for segment in segments_of(text, repertoire=LATIN):
        timeline.add_segment(segment)
        if segment.speakable:
            timeline.finish_segment(frames * FRAME_MS)
    if finish:
        timeline.finish()
    return timeline


def test_a_word_that_is_not_read_is_no_word_of_the_alignment() -> None:
    text = "Hello Привет world, Москва-City."
    words = latin(text).words()
    assert [word.text for word in words] == ["Hello", "world,", "Москва-City."]
    assert all(text[word.char_start : word.char_end] == word.text for word in words)


def test_half_a_word_takes_the_time_of_that_half() -> None:
    (half,) = units(segments_of("Москва-City", repertoire=LATIN)[0], PERFORM, LATIN)
    (whole,) = units(segments_of("Москва-City")[0], PERFORM)
    assert half.ms < whole.ms


def test_a_word_that_is_not_read_is_passed_with_the_next_one_that_is_heard() -> None:
    text = "Hello Привет world"
    timeline = latin(text, finish=False)
    hello, world = timeline.words()
    before = heard(timeline, text, hello.end_ms)
    assert (before.text, before.remaining) == ("Hello", " Привет world")
    assert before.segments[0].text == "Hello"
    after = heard(timeline, text, world.end_ms)
    assert (after.text, after.remaining) == (text, "")


def test_a_cut_history_has_no_letter_that_is_not_read() -> None:
    text = "Hello Привет my world and friends."
    timeline = latin(text)
    world = timeline.words()[2]
    cut = heard(timeline, text, world.end_ms)
    assert cut.text == "Hello Привет my world"
    assert [part.text for part in cut.segments] == ["Hello my world"]


def test_text_that_is_not_read_at_the_end_is_passed_when_all_is_heard() -> None:
    text = "Hello world. Привет, мир."
    whole = heard(latin(text), text, 20 * FRAME_MS)
    assert (whole.text, whole.remaining) == (text, "")


@given(texts, snaps, shares)
def test_heard_and_remaining_are_the_input_where_some_is_not_read(text: str, snap: Snap, share: float) -> None:
    timeline = latin(text)
    result = heard(timeline, text, share * timeline.audio_ms, snap)
    assert result.text + result.remaining == text
    assert all(LATIN.reads_all(part.text) for part in result.segments)

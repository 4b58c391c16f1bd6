"""A model that takes a segment for complete before it has come to its last word, by its own account of where it is."""

from __future__ import annotations

import pytest

from protocol.messages import Alignment, ErrorEvent, Status, TurnDone, WarningEvent
from realtime.scripted import Cut, Script, ScriptedStream
from tests.realtime.stage import Stage

# With latency "quality" these are two segments.
FIRST = "The quick brown fox jumps over the lazy dog. "
SECOND = "And then it sleeps until the next day begins and somebody wakes it. "
TEXT = FIRST + SECOND


def stage(cuts: dict[int, Cut], follows: bool = True) -> Stage:
    """One frame a character, so that a cut after n frames leaves what stands behind character n."""
    made = Stage(Script(cuts=cuts, follows=follows))
    made.configure(latency="quality", pacing={"clock": "none"}, alignment="word")
    return made


def warnings(made: Stage) -> list[tuple[str, str]]:
    return [(event.code, event.message) for event in made.all(WarningEvent)]


def spoken(made: Stage, text: str) -> tuple[list[str], TurnDone]:
    """What the engine was given, and how the turn ended."""
    made.say(text)
    (stream,) = made.engine.streams.values()
    assert isinstance(stream, ScriptedStream)
    return stream.pushed, made.run_until_done()


def test_what_a_model_leaves_out_of_a_segment_is_spoken_before_the_next_one() -> None:
    made = stage({0: Cut(22, None)})  # in the middle of "jumps"
    pushed, done = spoken(made, TEXT)
    assert pushed == ["The quick brown fox jumps over the lazy dog.", "over the lazy dog.", SECOND.strip()]
    assert warnings(made) == [("text_left_out", "characters 25 to 45 were left out and are spoken now")]
    assert (done.heard.text, done.heard.remaining) == (TEXT, "")
    assert done.metrics.chunks == 3
    assert done.audio_ms == pytest.approx((22 + 18 + len(SECOND.strip())) * 1024 / 22.05, abs=1)
    assert (done.context.kept_ms, done.context.kept_chars) == (done.audio_ms, len(TEXT))


def test_the_conversation_remembers_both_parts_with_what_was_said_of_each() -> None:
    made = stage({0: Cut(22, None)})
    spoken(made, TEXT)
    made.say("More.")
    made.run_until_done("turn-2")
    heard = made.engine.opened[-1].conversation.history
    assert [part.text for part in heard] == ["The quick brown fox jumps", "over the lazy dog.", SECOND.strip()]
    assert [part.codes.shape[1] for part in heard] == [22, 18, len(SECOND.strip())]


def test_words_are_told_once_and_in_order() -> None:
    made = stage({0: Cut(22, None)})
    spoken(made, TEXT)
    final = [item for event in made.all(Alignment) if event.final for item in event.items]
    assert [item.text for item in final] == TEXT.split()
    assert [item.start_ms for item in final] == sorted(item.start_ms for item in final)


def test_a_rest_is_spoken_once_and_what_is_left_of_it_was_not_heard() -> None:
    made = stage({0: Cut(22, None), 1: Cut(6, None)})
    pushed, done = spoken(made, FIRST)
    assert pushed == ["The quick brown fox jumps over the lazy dog.", "over the lazy dog."]
    assert warnings(made)[1] == ("text_left_out", "characters 34 to 45 were left out")
    assert (done.status, done.heard.text) == (Status.COMPLETED, "The quick brown fox jumps over the")
    assert done.heard.text + done.heard.remaining == FIRST


def test_what_nobody_speaks_counts_with_what_follows_it() -> None:
    made = stage({0: Cut(22, None), 1: Cut(6, None)})
    pushed, done = spoken(made, TEXT)
    assert pushed[2:] == [SECOND.strip()]
    assert (done.heard.text, done.heard.remaining) == (TEXT, "")
    made.say("More.")
    made.run_until_done("turn-2")
    heard = made.engine.opened[-1].conversation.history
    assert [part.text for part in heard] == ["The quick brown fox jumps", "over the", SECOND.strip()]


def test_an_interruption_in_the_rest_cuts_at_a_word_of_it() -> None:
    made = Stage(Script(cuts={0: Cut(22, None)}, follows=True))
    made.configure(latency="quality")
    made.send("text.append", text=TEXT)
    made.send("turn.end")
    made.run(1.5)
    frame_ms = 1024 / 22.05
    made.send("turn.cancel", played_ms=round((22 + 8.5) * frame_ms))  # it is at the end of "the"
    done = made.run_until_done()
    assert done.heard.text == "The quick brown fox jumps over the"
    assert done.heard.text + done.heard.remaining == TEXT


def test_speaker_and_style_hold_in_the_rest() -> None:
    made = stage({0: Cut(40, None)})
    text = "<|speaker:1|>[whisper] Nobody knows about it yet, and nobody will."
    pushed, done = spoken(made, text)
    assert pushed[1] == "<|speaker:1|>[whisper] it yet, and nobody will."
    assert done.heard.text == text


def test_a_guard_that_ends_a_segment_leaves_a_rest_as_well() -> None:
    made = stage({0: Cut(22, "silence")})
    pushed, _ = spoken(made, FIRST)
    assert pushed[1:] == ["over the lazy dog."]
    assert [code for code, _ in warnings(made)] == ["speech_cut", "text_left_out"]


def test_nothing_changes_for_a_model_that_does_not_tell_where_it_is() -> None:
    made = stage({0: Cut(22, None)}, follows=False)
    pushed, done = spoken(made, TEXT)
    assert pushed == [FIRST.strip(), SECOND.strip()]
    assert warnings(made) == []
    assert done.heard.text == TEXT


def test_a_model_that_comes_to_its_last_word_is_not_asked_again() -> None:
    made = stage({0: Cut(len(FIRST) - 4, None)})  # in "dog."
    pushed, _ = spoken(made, TEXT)
    assert pushed == [FIRST.strip(), SECOND.strip()]
    assert warnings(made) == []


@pytest.mark.parametrize("follows", [True, False])
def test_a_turn_that_is_as_long_as_it_may_get_ends_and_says_what_was_not_spoken(follows: bool) -> None:
    made = Stage(Script(follows=follows))
    made.configure(latency="quality", pacing={"clock": "none"}, sampling={"max_frames": len(FIRST) - 10})
    made.send("text.append", text=TEXT)
    made.run(3.0)
    made.send("text.append", text="And this comes later.")
    made.send("turn.end")
    done = made.run_until_done()
    assert done.status is Status.COMPLETED
    assert done.metrics.audio_tokens == len(FIRST) - 10
    assert "The quick brown fox jumps over the".startswith(done.heard.text.strip()) == follows
    assert done.heard.remaining.endswith(SECOND + "And this comes later.")
    assert ("speech_cut", "segment 0 was ended early: length") in warnings(made)
    assert not made.all(ErrorEvent)
    made.configure(sampling={"max_frames": 2048})
    made.say("The next turn is a turn like any other.")
    assert made.run_until_done("turn-2").heard.remaining == ""

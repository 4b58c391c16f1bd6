"""Word times of a whole session whose engine says where in the text it is: a frame a letter, 46.4 ms each."""

from __future__ import annotations

import pytest

from protocol.events import AlignmentSource
from protocol.messages import Alignment, TurnDone
from realtime.scripted import MINI_LIKE, Script
from tests.realtime.stage import PCM, Stage

FRAME_MS = MINI_LIKE.frame_s * 1000
TEXT = "Slow words are longer than quick ones."


def said(text: str, *, follows: bool = True, **session: object) -> Stage:
    stage = Stage(Script(follows=follows))
    stage.configure(**PCM, latency="quality", alignment="word", **session)
    stage.say(text)
    stage.run_until_done()
    return stage


def items(stage: Stage) -> dict[str, tuple[int, int, int, int]]:
    """By word: start_ms, end_ms, char_start, char_end, as finally told."""
    return {
        item.text: (item.start_ms, item.end_ms, item.char_start, item.char_end)
        for event in stage.all(Alignment)
        if event.final
        for item in event.items
    }


def test_words_are_told_when_the_model_speaks_them() -> None:
    stage = said(TEXT)
    assert {event.source for event in stage.all(Alignment)} == {AlignmentSource.MODEL}
    for word, (start_ms, _, char, end) in items(stage).items():
        assert TEXT[char:end] == word
        if char:
            assert start_ms == pytest.approx((char + 0.5) * FRAME_MS, abs=1)


def test_an_engine_that_does_not_say_where_it_is_leaves_estimates() -> None:
    stage = said(TEXT, follows=False)
    assert {event.source for event in stage.all(Alignment)} == {AlignmentSource.ESTIMATE}
    assert len(items(stage)) == 7


def test_prefixes_and_tags_do_not_move_words() -> None:
    text = "<|speaker:3|>[sad] So it goes. <|speaker:4|>[laugh] And on it goes, further."
    for word, (start_ms, end_ms, char, end) in items(said(text)).items():
        assert text[char:end] == word and start_ms <= end_ms


def test_times_follow_the_speed() -> None:
    plain, quick = items(said(TEXT)), items(said(TEXT, speed=2.0))
    assert quick.keys() == plain.keys()
    for word, (start_ms, end_ms, *_) in quick.items():
        assert start_ms == pytest.approx(plain[word][0] / 2, abs=1)
        assert end_ms == pytest.approx(plain[word][1] / 2, abs=1)


@pytest.mark.parametrize("word", ["words", "are", "longer", "than", "quick"])
def test_an_interruption_keeps_the_words_that_the_model_had_spoken(word: str) -> None:
    stage = Stage(Script(follows=True))
    stage.configure(**PCM, latency="quality", alignment="word")
    text = f"{TEXT} And then some more of them are said."
    stage.say(text)
    stage.run(1.6)  # of 3.6 s
    end = TEXT.index(word) + len(word)
    stage.send("turn.cancel", played_ms=round((end + 0.5) * FRAME_MS))
    done = stage.one(TurnDone)
    assert done.heard.text == text[:end] and done.heard.text + done.heard.remaining == text

from __future__ import annotations

from realtime.ended import REMEMBERED, EndedTurns


def test_text_is_late_for_a_turn_that_ended_before_it() -> None:
    ended = EndedTurns()
    ended.add("a", text_missing=True)
    assert ended.late(None) == ended.late("a") == "a" and "a" in ended
    assert ended.late("b") is None and not ended.finished("a")


def test_text_is_a_mistake_for_a_turn_whose_text_had_ended() -> None:
    ended = EndedTurns()
    ended.add("a", text_missing=False)
    assert ended.finished("a") and ended.late("a") is None and ended.late(None) is None
    assert not ended.text_ended()


def test_the_client_is_told_once() -> None:
    ended = EndedTurns()
    ended.add("a", text_missing=True)
    assert [ended.tell("a"), ended.tell("a")] == [True, False]


def test_the_end_of_the_awaited_text_ends_the_waiting() -> None:
    ended = EndedTurns()
    ended.add("a", text_missing=True)
    assert not ended.text_ended("b") and ended.late(None) == "a"
    assert ended.text_ended("a") and ended.late(None) is None
    assert ended.late("a") == "a", "text that names the turn is late for ever"


def test_only_the_newest_turns_are_remembered() -> None:
    ended = EndedTurns()
    for index in range(REMEMBERED + 1):
        ended.add(str(index), text_missing=False)
    assert "0" not in ended and "1" in ended

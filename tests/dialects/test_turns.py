from __future__ import annotations

from protocol.dialects.turns import Turns
from protocol.errors import ErrorCode, ProtocolError
from protocol.events import ErrorEvent, Status, TurnPlayed
from protocol.messages import command_fields
from tests.dialects.desk import DeskHost, done


def texts(turns: Turns, turn: str, *pieces: str) -> list[object]:
    return [command_fields(command)["text"] for piece in pieces for command in turns.say(turn, piece)]


def test_a_turn_is_heard_until_it_was_played() -> None:
    turns = Turns(DeskHost())
    one, two = turns.new(), turns.new()
    assert (one, two) == ("t1", "t2") and list(turns.speaking) == [one, two]
    turns.event(done(one))
    assert list(turns.speaking) == [two] and list(turns.heard) == [one, two] and not turns.live(one)
    turns.event(TurnPlayed(turn=one, ms=1000))
    assert list(turns.heard) == [two]
    turns.event(done(two, Status.CANCELLED))
    assert list(turns.heard) == []


def test_without_pacing_what_was_sent_was_heard() -> None:
    turns = Turns(DeskHost(paced=False))
    turns.event(done(turns.new()))
    assert list(turns.heard) == []


def test_a_turn_that_could_not_be_opened_is_forgotten() -> None:
    turns = Turns(DeskHost())
    one = turns.new()
    turns.event(ErrorEvent.of(ProtocolError(ErrorCode.UNKNOWN_TURN, "there is none", turn=one)))
    assert list(turns.speaking) == [] and turns.chars(one) == 0


def test_the_newest_is_cancelled_first_and_alone() -> None:
    turns = Turns(DeskHost())
    turns.new()
    turns.new()
    commands = [command_fields(command) for command in turns.cancel(turns.heard, "barge_in")]
    assert [command["turn"] for command in commands] == ["t2", "t1"]
    assert {command["scope"] for command in commands} == {"turn"}


def test_a_long_text_takes_several_appends() -> None:
    turns = Turns(DeskHost())
    one = turns.new()
    assert [len(str(text)) for text in texts(turns, one, "a" * 10_000)] == [4096, 4096, 1808]
    assert turns.chars(one) == 10_000


def test_half_a_character_waits_for_its_other_half() -> None:
    turns = Turns(DeskHost())
    one = turns.new()
    assert texts(turns, one, "Hi \ud83d", "\ude00!", "\ud83d") == ["Hi ", "😀!"]
    assert turns.chars(one) == 5

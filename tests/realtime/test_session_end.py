"""The session alone: silence, age, a socket that is lost, and the end."""

from __future__ import annotations

from protocol.config import Limits
from protocol.messages import (
    Alignment,
    ErrorEvent,
    Pong,
    SessionClosing,
    TurnDone,
    WarningEvent,
)
from realtime.outbox import Close
from realtime.scripted import ScriptedEngine
from tests.realtime.stage import Stage, remembered, squeezed, words

# Silence, age and the end


def test_an_open_turn_without_text_is_ended() -> None:
    stage = Stage()
    stage.send("turn.start", turn="a")
    stage.send("text.append", text="Hello there, ")
    stage.run(29.9)
    assert not stage.all(WarningEvent)
    stage.run(0.2)
    assert stage.one(WarningEvent).code == "turn_idle_closed"
    assert stage.run_until_done("a").status == "completed"


def test_a_session_that_nobody_uses_is_closed() -> None:
    stage = Stage()
    stage.run(599.0)
    stage.send("ping")
    stage.run(599.0)
    assert not stage.all(Close)
    stage.run(2.0)
    assert stage.one(SessionClosing).reason == "idle"
    assert stage.one(Close).code == 4408


def test_a_peer_that_answers_pings_is_there() -> None:
    stage = Stage()
    for _ in range(100):
        stage.run(15.0)
        stage.session.alive(stage.now)
    assert not stage.all(Close)


def test_a_session_does_not_live_for_ever() -> None:
    stage = Stage(limits=Limits(session_s=100))
    stage.run(71.0)
    closing = stage.one(SessionClosing)
    assert (closing.reason, closing.in_ms) == ("expired", 30_000)
    stage.send("turn.start", turn="a")
    stage.run(30.0)
    assert stage.one(TurnDone).status == "cancelled"
    assert stage.one(ErrorEvent).code == "session_expired"
    assert stage.one(Close).code == 4410


def test_a_close_lets_what_was_asked_for_be_spoken() -> None:
    stage = Stage()
    stage.send("text.append", text="One thing more.")
    stage.send("session.close")
    stage.send("text.append", text="Too late.", turn="b")
    assert stage.one(ErrorEvent).code == "invalid_value"
    assert stage.run_until_done().heard.text == "One thing more."
    assert stage.written[-1] == Close(1000, "closed")


def test_a_close_without_a_drain_is_at_once() -> None:
    stage = Stage()
    stage.say(words(30))
    stage.run(0.5)
    stage.send("session.close", drain=False)
    assert stage.one(TurnDone).reason == "closed"
    assert stage.written[-1] == Close(1000, "closed")
    stage.send("ping")
    stage.run(1.0)
    assert not stage.all(Pong)


def test_a_server_that_ends_lets_running_turns_be_spoken() -> None:
    stage = Stage()
    stage.say(words(10))
    stage.run(0.2)
    stage.session.drain(20.0, stage.now)
    stage.run(0.1)
    closing = stage.one(SessionClosing)
    assert (closing.reason, closing.in_ms, closing.retry_after_ms) == ("restart", 20_000, 25_000)
    assert "connect again" in closing.message
    stage.send("turn.start")
    refused = stage.one(ErrorEvent)
    assert (refused.code, refused.fatal, refused.retry_after_ms) == ("no_capacity", False, 24_900)
    assert stage.run_until_done().status == "completed"
    assert stage.written[-1] == Close(1012, "restart")


def test_a_server_that_ends_does_not_wait_for_ever() -> None:
    stage = Stage()
    stage.send("turn.start")
    stage.session.drain(3.0, stage.now)
    stage.run(3.1)
    assert (stage.one(TurnDone).reason, stage.one(Close).code) == ("restart", 1012)


def test_a_client_that_leaves_frees_the_engine() -> None:
    stage = Stage()
    stage.say(words(30))
    stage.run(0.5)
    stage.session.disconnect(stage.now)
    assert not stage.engine.streams and stage.engine.forgotten == ["s-1"]


def test_a_ping_is_answered_with_where_the_session_is() -> None:
    stage = Stage()
    stage.run(0.5)
    stage.send("ping", t={"a": [1]}, event_id="e")
    pong = stage.one(Pong)
    assert (pong.t, pong.session_ms, pong.turn, pong.event_id) == ({"a": [1]}, 500, None, "e")
    stage.say(words(20))
    stage.run(0.5)
    sent_ms = stage.sent_ms(1)  # a message is an occasion for more to leave, behind its answer
    stage.send("ping")
    pong = stage.one(Pong)
    assert pong.turn == "turn-1" and pong.sent_ms == round(sent_ms)


def test_a_seed_gives_the_same_turn_again() -> None:
    def spoken() -> bytes:
        stage = Stage(engine=ScriptedEngine())
        stage.say("Hello there, friend.")
        stage.run_until_done()
        return stage.audio(1)

    assert spoken() == spoken()


def test_a_long_message_is_read_in_slices_between_which_others_get_their_turn() -> None:
    stage = Stage()
    text = words(500)[:4096]
    stage.send("text.append", text=text)
    assert len("".join(stage.engine.streams["s-1"].pushed)) < 300, "the first slice alone"
    stage.run(0.0)
    stage.send("turn.end")
    stage.send("turn.cancel")
    assert stage.one(TurnDone).heard.remaining == text


def test_a_flush_behind_a_long_message_speaks_all_of_it() -> None:
    stage = Stage()
    stage.configure(latency="quality")
    text = "word " * 100
    stage.send("text.append", text=text)
    stage.send("text.flush")
    stage.run(0.1)
    assert squeezed("".join(stage.engine.streams["s-1"].pushed)) == squeezed(text)


def test_flushing_a_turn_that_has_ended_is_no_error() -> None:
    stage = Stage()
    stage.say(words(5), turn="a")
    stage.send("text.flush", turn="a")
    assert stage.run_until_done("a").status == "completed"


def test_word_times_do_not_wait_for_more_text() -> None:
    stage = Stage()
    stage.configure(alignment="word")
    stage.send("text.append", text="Hello there, my")
    stage.run(0.25)
    assert stage.engine.streams["s-1"].pushed == ["Hello there,"]
    (final,) = [event for event in stage.all(Alignment) if event.final]
    assert [item.text for item in final.items] == ["Hello", "there,"]
    assert stage.written[-1] is final, "behind the audio that it is about"


# A socket that is lost


def test_a_turn_goes_on_when_its_socket_comes_back_in_time() -> None:
    stage = Stage()
    stage.say(words(20))
    stage.run(1.0)
    stage.lose_socket()
    stage.run(2.9)
    stage.find_socket()
    assert stage.run_until_done().status == "completed"


def test_a_turn_whose_listener_stays_away_is_cancelled_by_the_clock() -> None:
    stage = Stage()
    stage.say(words(40))
    stage.run(1.0)
    stage.lose_socket()
    stage.run(3.1)
    assert not stage.session.floor.turns and not stage.engine.streams
    stage.find_socket()
    done = stage.one(TurnDone)
    assert (done.status, done.reason, done.heard.source) == ("cancelled", "disconnected", "clock")
    assert done.heard.ms <= done.sent_ms < 3000
    stage.say("Again.")
    stage.run(0.1)
    assert remembered(stage) == squeezed(done.heard.text)


def test_a_session_without_a_socket_ends_after_its_time_to_live() -> None:
    stage = Stage()
    stage.lose_socket()
    stage.run(59.9)
    assert not stage.session.closed
    stage.run(0.2)
    assert stage.session.closed


def test_who_resumes_learns_what_of_his_text_arrived() -> None:
    stage = Stage()
    stage.say("Hello there, my friend.", turn="a")
    stage.send("text.append", turn="b", text="And ")
    stage.run(10.0)
    created = stage.session.created(5_000_000, stage.now, "token", resumed=True)
    assert [(turn.turn, turn.n, turn.text_chars, turn.text_ended) for turn in created.turns] == [("b", 2, 4, False)]
    assert created.resumed and created.resume_token == "token"
    assert created.expires_at == 5_000_000 + Limits().session_s * 1000 - 10_000

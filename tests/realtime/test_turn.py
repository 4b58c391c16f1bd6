"""What holds of turns under any interleaving of a client, an engine, a socket and time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api import EngineDied
from protocol.messages import ContextUpdated, ErrorEvent, TurnDone
from realtime.scripted import Script
from tests.realtime.stage import Stage, words

NAMES = ("a", "b", "c")
TEXTS = (
    "One, two, three. ",
    "Hello there! ",
    "And so on, ",
    "wo",
    "rd ",
    "[laugh] ha. ",
    "<|speaker:1|>Me? ",
    "你好。",
)

LONG = "Here is a longer story about nothing at all, told in some detail so that it lasts. "

appends = st.tuples(st.just("append"), st.sampled_from(NAMES), st.sampled_from((*TEXTS, LONG)))
says = st.tuples(st.just("say"), st.sampled_from(NAMES), st.sampled_from((LONG, "Short one. ", "Yes, of course I do.")))
runs = st.tuples(st.just("run"), st.sampled_from((0.005, 0.03, 0.2, 1.0, 4.0)))
cancels = st.tuples(
    st.just("cancel"),
    st.sampled_from((None, None, *NAMES)),
    st.sampled_from(("all", "turn")),
    st.sampled_from((None, 0, 300, 800, 2000)),
)
rare = st.one_of(
    st.tuples(st.just("end"), st.sampled_from(NAMES)),
    st.tuples(st.just("flush"), st.sampled_from(NAMES)),
    st.tuples(st.just("start"), st.sampled_from(NAMES), st.sampled_from(("queue", "interrupt"))),
    st.tuples(st.just("writable"), st.booleans()),
    st.tuples(st.just("die")),
)
courses = st.lists(st.one_of(says, says, appends, runs, runs, runs, cancels, rare), min_size=8, max_size=30)


@dataclass
class Client:
    """Plays steps, names its turns so that none is used twice, and notes what was accepted."""

    stage: Stage
    said: dict[str, str] = field(default_factory=dict)  # turn id -> text that was accepted
    rounds: dict[str, int] = field(default_factory=dict)  # name -> how many turns of that name there were

    def play(self, step: tuple[object, ...]) -> None:
        kind, *rest = step
        match kind, rest:
            case "append", [str(name), str(text)]:
                turn = self._turn(name)
                before = self._input(turn)
                self.stage.send("text.append", turn=turn, text=text)
                if self._input(turn) != before:
                    self.said[turn] = self.said.get(turn, "") + text
            case "say", [name, text]:
                self.play(("append", name, text))
                self.play(("end", name))
            case "end" | "flush", [str(name)]:
                self.stage.send("turn.end" if kind == "end" else "text.flush", turn=self._turn(name))
            case "start", [str(name), after]:
                self.stage.send("turn.start", turn=self._turn(name), after=after)
            case "cancel", [name, scope, played_ms]:
                which = {} if name is None else {"turn": self._turn(str(name))}
                played = {} if played_ms is None else {"played_ms": played_ms}
                self.stage.send("turn.cancel", scope=scope, **which, **played)
            case "run", [float(seconds)]:
                self.stage.run(seconds)
            case "writable", [writable]:
                self.stage.writable = bool(writable)
                self.stage.write()
            case "die", []:
                self.stage.engine.die()

    def finish(self) -> None:
        """Let everything end."""
        self.stage.writable = True
        self.stage.write()
        for turn in list(self.stage.session.floor.turns):
            self.stage.send("turn.end", turn=turn.id)
        self.stage.run(120.0)

    def _turn(self, name: str) -> str:
        """The present turn of that name; a new one once it is known to be over."""
        turn = f"{name}{self.rounds.get(name, 0)}"
        if any(done.turn == turn for done in self.stage.all(TurnDone)):
            self.rounds[name] = self.rounds.get(name, 0) + 1
            turn = f"{name}{self.rounds[name]}"
        return turn

    def _input(self, turn: str) -> str | None:
        """Whether text was taken is asked of the session: its answer may wait in a socket that takes nothing."""
        return next((live.text.raw for live in self.stage.session.floor.turns if live.id == turn), None)


@settings(max_examples=150)
@given(courses, st.sampled_from((0.001, 0.03, 0.06)))
def test_every_turn_ends_once_with_all_of_its_text_accounted_for(
    course: list[tuple[object, ...]], step_s: float
) -> None:
    """Stage.write checks besides that nothing follows an end, that positions have no gap, and that nothing is sent before its start."""
    stage = Stage(step_s=step_s)
    client = Client(stage)
    for step in course:
        client.play(step)
    client.finish()
    assert not stage.session.floor.turns
    assert not stage.engine.streams, "every stream was ended"
    done = {event.turn: event for event in stage.all(TurnDone)}
    for turn, text in client.said.items():
        assert done[turn].heard.text + done[turn].heard.remaining == text


talks = st.lists(st.one_of(says, runs, cancels), min_size=4, max_size=20)


@settings(max_examples=200)
@given(talks, st.sampled_from((0.001, 0.03)))
def test_the_model_remembers_exactly_what_the_client_was_told_was_heard(
    course: list[tuple[object, ...]], step_s: float
) -> None:
    stage = Stage(step_s=step_s)
    stage.configure(history={"max_s": 120})
    client = Client(stage)
    for step in course:
        client.play(step)
    client.finish()
    told: dict[str, tuple[int, str]] = {}
    for event in stage.written:
        if isinstance(event, TurnDone):
            told[event.turn] = (event.n, event.heard.text if event.context.kept_chars else "")
        elif isinstance(event, ContextUpdated) and event.turn is not None and event.heard is not None:
            told[event.turn] = (told[event.turn][0], event.heard.text)
    stage.say("Last.", turn="last")
    history = stage.engine.opened[-1].conversation.history
    heard = bare("".join(text for _, text in sorted(told.values())))
    remembered = bare("".join(segment.text for segment in history))
    if sum(segment.codes.shape[1] for segment in history) * stage.engine.info.frame_s < 0.6 * 120:
        assert remembered == heard
    else:
        assert heard.endswith(remembered), "the oldest may have been dropped"


def bare(text: str) -> str:
    """Without spaces and speaker tokens: the engine's segments are trimmed, and have the speaker in force put in front."""
    return "".join(text.replace("<|speaker:1|>", "").split())


@pytest.mark.parametrize("step", range(0, 60, 3))
def test_a_cancel_at_any_frame_frees_the_engine_and_ends_the_turn_once(step: int) -> None:
    stage = Stage(step_s=0.01)
    stage.say(words(20))
    while stage.engine.steps < step:
        stage.run(0.01)
    stage.send("turn.cancel")
    assert not stage.engine.streams
    assert stage.one(TurnDone).status == "cancelled"
    stage.run(5.0)
    assert stage.engine.steps == step or not step


@pytest.mark.parametrize("step", range(0, 60, 3))
def test_a_failure_at_any_frame_ends_its_turn_once_and_no_other(step: int) -> None:
    stage = Stage(Script(errors={step: EngineDied()}))
    stage.say(words(7), turn="a")
    stage.say(words(7), turn="b")
    stage.run(20.0)
    done = {event.turn: event.status for event in stage.all(TurnDone)}
    assert sorted(done.values()) == ["completed", "failed"]
    assert len(stage.all(ErrorEvent)) == 1


@pytest.mark.parametrize("message", range(0, 40, 2))
def test_a_client_may_vanish_after_any_message(message: int) -> None:
    stage = Stage(step_s=0.01)
    stage.say(words(8), turn="a")
    stage.send("text.append", text=words(8), turn="b")
    while len(stage.written) < message:
        stage.run(0.01)
    stage.session.disconnect(stage.now)
    assert not stage.engine.streams and not stage.session.floor.turns
    stage.run(5.0)
    stage.send("text.append", text="Hello?", turn="c")
    assert not stage.engine.streams and stage.engine.forgotten == ["s-1"]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 12), max_size=12))
def test_however_the_text_is_cut_the_audio_is_the_same(cuts: list[int]) -> None:
    text = "Good morning! [laugh] This is a test, of course. <|speaker:1|>And who are you, 3.14?"

    def spoken(pieces: list[str]) -> bytes:
        stage = Stage()
        for piece in pieces:
            stage.send("text.append", text=piece)
            stage.run(0.02)
        stage.send("turn.end")
        stage.run_until_done()
        return stage.audio(1)

    pieces, rest = [], text
    for size in cuts:
        pieces.append(rest[:size])
        rest = rest[size:]
    assert spoken([*pieces, rest]) == spoken([text])

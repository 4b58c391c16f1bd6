"""What holds of turns under any interleaving of a client, an engine, a socket and time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.api import EngineDied
from protocol.audio_frame import AudioFrame
from protocol.messages import ContextUpdated, ErrorEvent, MarkEvent, TurnDone, TurnResumed
from realtime.scripted import Cut, Script
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
listener = st.one_of(
    st.tuples(st.just("pause"), st.sampled_from((None, 0, 400, 1500))),
    st.tuples(st.just("resume"), st.sampled_from((None, None, 0, 300, 1200))),
    st.tuples(
        st.just("report"),
        st.sampled_from(NAMES),
        st.sampled_from((0, 200, 600, 1500, 9000)),
        st.sampled_from(("playing", "playing", "stalled", "ended")),
    ),
    st.tuples(st.just("truncate"), st.sampled_from(NAMES), st.sampled_from((0, 300, 800, 2000))),
    st.tuples(st.just("mark"), st.sampled_from(NAMES)),
    st.tuples(st.just("lose"), st.sampled_from((0.05, 1.0, 4.0))),
)
courses = st.lists(st.one_of(says, says, appends, runs, runs, runs, cancels, rare, listener), min_size=8, max_size=30)


@dataclass
class Client:
    """Plays steps, names its turns so that none is used twice, and notes what was accepted."""

    stage: Stage
    said: dict[str, str] = field(default_factory=dict)  # turn id -> text that was accepted
    rounds: dict[str, int] = field(default_factory=dict)  # name -> how many turns of that name there were
    marks: int = 0

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
            case "pause", [played_ms]:
                self.stage.send("turn.pause", **({} if played_ms is None else {"played_ms": played_ms}))
            case "resume", [from_ms]:
                self.stage.send("turn.resume", **({} if from_ms is None else {"from_ms": from_ms}))
            case "report", [str(name), played_ms, state]:
                self.stage.send("playback.update", turn=self._latest(name), played_ms=played_ms, state=state)
            case "truncate", [str(name), played_ms]:
                self.stage.send("context.truncate", turn=self._latest(name), played_ms=played_ms)
            case "mark", [str(name)]:
                self.marks += 1
                self.stage.send("mark", turn=self._turn(name), name=f"m{self.marks}")
            case "lose", [float(seconds)]:
                self.stage.lose_socket()
                self.stage.run(seconds)
                self.stage.find_socket()

    def finish(self) -> None:
        """Let everything end."""
        self.stage.writable = True
        self.stage.write()
        if self.stage.session.floor.paused() is not None:
            self.stage.send("turn.resume")
        for turn in list(self.stage.session.floor.turns):
            self.stage.send("turn.end", turn=turn.id)
        for _ in range(12):
            for turn in self.stage.session.floor.known:
                if turn.clock is not None and turn.clock.reported_ms is not None:
                    self.stage.send("playback.update", turn=turn.id, played_ms=86_000_000)
            self.stage.run(10.0)

    def _latest(self, name: str) -> str:
        """The newest turn of that name, over or not."""
        return f"{name}{self.rounds.get(name, 0)}"

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


# An engine that does not tell where it is, one that does, and one that also leaves out the end of some segments, once or twice.
EARLY = {number: Cut(6 + number % 5, None) for number in range(0, 100, 3)}
TWICE = {number: Cut(6, None) for number in range(100) if number % 4 < 2}
scripts = st.sampled_from((Script(), Script(follows=True), Script(follows=True, cuts=EARLY)))
all_scripts = st.one_of(scripts, st.just(Script(follows=True, cuts=TWICE)))


@settings(max_examples=150)
@given(courses, st.sampled_from((0.001, 0.03, 0.06)), all_scripts)
def test_every_turn_ends_once_with_all_of_its_text_accounted_for(
    course: list[tuple[object, ...]], step_s: float, script: Script
) -> None:
    """Stage.write checks besides that nothing follows an end, that positions have no gap, and that nothing is sent before its start."""
    stage = Stage(script, step_s=step_s)
    client = Client(stage)
    for step in course:
        client.play(step)
    client.finish()
    assert not stage.session.floor.turns
    assert not stage.engine.streams, "every stream was ended"
    ended = {(event.turn, event.name) for event in stage.all(MarkEvent) if event.state != "generated"}
    assert {(event.turn, event.name) for event in stage.all(MarkEvent)} == ended, "every mark is played or dropped"
    done = {event.turn: event for event in stage.all(TurnDone)}
    for turn, text in client.said.items():
        assert done[turn].heard.text + done[turn].heard.remaining == text


talks = st.lists(st.one_of(says, runs, cancels, listener), min_size=4, max_size=20)


@settings(max_examples=200)
@given(talks, st.sampled_from((0.001, 0.03)), scripts)
def test_the_model_remembers_exactly_what_the_client_was_told_was_heard(
    course: list[tuple[object, ...]], step_s: float, script: Script
) -> None:
    stage = Stage(script, step_s=step_s)
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


@pytest.mark.parametrize("step", range(60))
def test_a_cancel_at_any_frame_frees_the_engine_and_ends_the_turn_once(step: int) -> None:
    stage = Stage(step_s=0.01)
    stage.say(words(20))
    while stage.engine.steps < step:
        stage.run(0.01)
    stage.send("turn.cancel")
    assert not stage.engine.streams
    assert stage.one(TurnDone).status == "cancelled"
    steps = stage.engine.steps
    stage.run(5.0)
    assert stage.engine.steps == steps


@pytest.mark.parametrize("step", range(60))
def test_a_failure_at_any_frame_ends_its_turn_once_and_no_other(step: int) -> None:
    stage = Stage(Script(errors={step: EngineDied()}))
    stage.say(words(7), turn="a")
    stage.say(words(7), turn="b")
    stage.run(20.0)
    done = {event.turn: event.status for event in stage.all(TurnDone)}
    assert sorted(done.values()) == ["completed", "failed"]
    assert len(stage.all(ErrorEvent)) == 1


@pytest.mark.parametrize("message", range(40))
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


@pytest.mark.parametrize("message", range(0, 60, 2))
def test_a_pause_or_a_lost_socket_after_any_message_changes_nothing_of_what_is_heard(message: int) -> None:
    def spoken(interrupt: bool) -> bytes:
        stage = Stage(step_s=0.01)
        stage.say(words(8), turn="a")
        while interrupt and len(stage.written) < message:
            stage.run(0.01)
        if interrupt and message % 4:
            stage.send("turn.pause")
            stage.run(2.0)
            stage.send("turn.resume")
        elif interrupt:
            stage.lose_socket()
            stage.run(2.0)
            stage.find_socket()
        assert stage.run_until_done("a").status == "completed"
        return stage.audio(1)

    assert spoken(True) == spoken(False)


@pytest.mark.parametrize("frame", range(0, 100, 4))
def test_a_resume_from_any_time_sends_the_rest_of_the_turn(frame: int) -> None:
    whole = Stage(step_s=0.001)
    whole.say(words(8), turn="a")
    whole.run_until_done("a")
    stage = Stage(step_s=0.001)
    stage.say(words(8), turn="a")
    stage.run(0.02 * frame)
    stage.send("turn.pause")
    if stage.all(TurnDone):
        return  # it was all sent
    stage.send("turn.resume", from_ms=20 * frame)
    at_ms = stage.one(TurnResumed).at_ms
    count = len(stage.all(AudioFrame))
    stage.run_until_done("a")
    again = b"".join(message.payload for message in stage.all(AudioFrame)[count:])
    assert whole.audio(1).endswith(again) and at_ms <= 20 * frame


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

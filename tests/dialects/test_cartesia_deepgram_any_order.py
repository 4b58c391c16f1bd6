"""Clients that say anything, in any order: no machine breaks, and each keeps its promises. A small session answers, in any order it may."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.dialects.cartesia import CartesiaSocket
from protocol.dialects.deepgram import SpeakSocket
from protocol.dialects.deepgram_flux import FluxSocket
from protocol.dialects.interface import Dialect, Host, Opening
from protocol.dialects.openai_realtime import RealtimeSocket
from protocol.events import ContextUpdated, Status
from tests.dialects.desk import Desk, done

MACHINES: tuple[Callable[[Host, Opening], Dialect], ...] = (CartesiaSocket, SpeakSocket, FluxSocket, RealtimeSocket)
RAW = {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 24_000}
KINDS = (
    "Speak",
    "Flush",
    "Clear",
    "Close",
    "Interrupt",
    "Configure",
    "session.update",
    "response.create",
    "response.cancel",
)
KINDS = (*KINDS, "conversation.item.create", "conversation.item.truncate")
NAMES = ("type", "text", "transcript", "context_id", "voice", "continue", "cancel", "flush", "output_format", "session")
NAMES = (
    *NAMES,
    "item",
    "response",
    "input",
    "content",
    "role",
    "item_id",
    "audio_end_ms",
    "playback_offset",
    "value",
    "speed",
)

words = st.text(st.characters(categories=None) | st.sampled_from("a [].\ud83d\ude00"), max_size=12)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words | st.sampled_from((*KINDS, "assistant", "id"))
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | words, inner, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=6)
typed = st.builds(lambda kind, fields: {**fields, "type": kind}, st.sampled_from(KINDS), objects)


sentences = st.fixed_dictionaries(
    {"type": st.just("Speak"), "text": words, "transcript": words, "context_id": st.sampled_from(("a", "b"))},
    optional={"continue": st.booleans(), "flush": st.booleans(), "max_buffer_delay_ms": st.just(0)},
)
asked = st.builds(lambda text: {"type": "response.create", "response": {"input": [{"content": text}]}}, words)


@pytest.mark.parametrize("machine", MACHINES)
@settings(max_examples=40)
@given(messages=st.lists(values | objects | typed | sentences | asked, max_size=8))
def test_any_message_is_understood_or_refused(
    machine: Callable[[Host, Opening], Dialect], messages: list[object]
) -> None:
    desk = Desk(machine)
    for message in messages:
        for output in desk.says(json.dumps(message)):
            if isinstance(output, str) and output != "session.update":
                assert json.loads(output)["type"]
    desk.leaves()


class Talk:
    """A session that speaks one turn after the other, and a client at it."""

    def __init__(self, machine: Callable[[Host, Opening], Dialect]) -> None:
        self.desk = Desk(machine)
        self.told: list[Any] = []  # to the client, in order
        self.waiting: list[str] = []  # turns that speak, oldest first
        self.ended: set[str] = set()
        self.over: list[str] = []

    def says(self, message: Mapping[str, object]) -> None:
        self._take(self.desk.says(json.dumps(message)))

    def sounds(self) -> None:
        if self.waiting:
            self._take(self.desk.sound(self.waiting[0], b"ab"))

    def ends(self, *, early: bool = False) -> None:
        """The turn that speaks has said all; `early`: the server gives it up because no text came."""
        if self.waiting and (early or self.waiting[0] in self.ended):
            turn = self.waiting.pop(0)
            self.over.append(turn)
            self._take(self.desk.hears(done(turn)))

    def finish(self) -> None:
        while self.waiting and self.waiting[0] in self.ended:
            self.ends()

    def _take(self, outputs: list[object]) -> None:
        for output in outputs:
            match output:
                case {"type": "text.append", "turn": turn} if turn not in self.waiting:
                    assert turn not in self.over and turn not in self.ended, "an id is used once"
                    self.waiting.append(str(turn))
                case {"type": "text.append" | "text.flush", "turn": turn}:
                    assert turn in self.waiting and turn not in self.ended, "no text for a turn that has ended"
                case {"type": "turn.end", "turn": turn}:
                    self.ended.add(str(turn))
                case {"type": "turn.cancel", "turn": turn} if turn in self.waiting:
                    self.waiting.remove(str(turn))
                    self.over.append(str(turn))
                    self._take(self.desk.hears(done(str(turn), Status.CANCELLED)))
                case {"type": "turn.cancel", "turn": turn}:
                    heard = done(str(turn)).heard
                    context = ContextUpdated(turn=str(turn), heard=heard, turns=1, audio_s=1, text_chars=1)
                    self._take(self.desk.hears(context))
                case str() if output != "session.update":
                    self.told.append(json.loads(output))
                case bytes():
                    self.told.append(output)


steps = st.lists(st.tuples(st.sampled_from("tfecsdi"), st.integers(0, 2)), max_size=40)


@given(steps=steps)
def test_every_context_ends_once_and_a_cancelled_one_is_silent(steps: list[tuple[str, int]]) -> None:
    talk = Talk(CartesiaSocket)
    generation = Counter[int]()
    ended: dict[str, str] = {}

    def say(number: int, **fields: object) -> None:
        name = f"{number}.{generation[number]}"
        talk.says({"context_id": name, "voice": "x", "output_format": RAW, "max_buffer_delay_ms": 0, **fields})

    for step, number in steps:
        name = f"{number}.{generation[number]}"
        match step:
            case "t":
                say(number, transcript="One.", **{"continue": True})
            case "f":
                say(number, transcript="", flush=True, **{"continue": True})
            case "e":
                say(number, transcript="", **{"continue": False})
                ended[name] = "done"
                generation[number] += 1
            case "c":
                talk.says({"context_id": name, "cancel": True})
                size = len(talk.told)
                ended[name] = "cancelled"
                generation[number] += 1
                talk.sounds()
                assert not [told for told in talk.told[size:] if told["context_id"] == name]
            case "s":
                talk.sounds()
            case "d":
                talk.ends()
            case "i":
                talk.ends(early=True)
    for number in range(3):
        say(number, transcript="", **{"continue": False})
        ended[f"{number}.{generation[number]}"] = "done"
    talk.finish()
    for name, how in ended.items():
        kinds = [told["type"] for told in talk.told if told["context_id"] == name]
        assert kinds.count("done") == (how == "done"), (name, how, kinds)
        assert "done" not in kinds[:-1], "nothing behind it"
    assert not any(told["type"] == "error" for told in talk.told)
    assert talk.desk.dialect.deadline == float("inf"), "nothing is left"


@given(steps=steps)
def test_every_flush_is_answered_unless_it_was_cleared(steps: list[tuple[str, int]]) -> None:
    talk = Talk(SpeakSocket)
    owed, cleared = 0, False

    def count(kind: str) -> int:
        return sum(isinstance(told, dict) and told["type"] == kind for told in talk.told)

    for step, _ in steps:
        match step:
            case "t" | "f":
                talk.says({"type": "Speak", "text": "One. "})
                cleared = False
            case "e":
                talk.says({"type": "Flush"})
                owed += 1
            case "c":
                talk.says({"type": "Clear"})
                owed, cleared = count("Flushed"), True
            case "s":
                size = len(talk.told)
                talk.sounds()
                assert not cleared or len(talk.told) == size
            case "d":
                talk.ends()
            case "i":
                talk.ends(early=True)
    talk.says({"type": "Flush"})
    talk.finish()
    assert count("Flushed") == owed + 1
    numbers = [told["sequence_id"] for told in talk.told if isinstance(told, dict) and "sequence_id" in told]
    assert numbers == list(range(len(numbers)))


@given(steps=steps)
def test_every_speech_ends_once(steps: list[tuple[str, int]]) -> None:
    talk = Talk(FluxSocket)
    for step, number in steps:
        match step:
            case "t" | "f":
                talk.says({"type": "Speak", "text": "One. "})
            case "e":
                talk.says({"type": "Flush"})
            case "c":
                offset = {"type": "time_ms", "value": 1_000_000 + len(talk.told)} if number else None
                talk.says({"type": "Interrupt", "playback_offset": offset})
            case "s":
                talk.sounds()
            case "d":
                talk.ends()
            case "i":
                talk.ends(early=True)
    talk.says({"type": "Flush"})
    talk.finish()
    talk.says({"type": "Close"})
    told = [each for each in talk.told if isinstance(each, dict)]
    started = [each["speech_id"] for each in told if each["type"] == "SpeechStarted"]
    over = [each["speech_id"] for each in told if each["type"] == "SpeechMetadata"]
    cut = sum(each["type"] == "SpeechInterrupted" for each in told)
    assert len(set(started)) == len(started) and len(set(over)) == len(over) and set(over) <= set(started)
    assert cut or over == started, "in order"
    assert told[-1]["type"] == "SessionMetadata"

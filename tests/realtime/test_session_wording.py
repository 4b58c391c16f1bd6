"""Text of a language model through a whole session: read as a person would, reported as it was written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as run_settings
from hypothesis import strategies as st

from protocol.config import Snap
from protocol.events import Alignment, ErrorEvent, TurnDone, WarningCode, WarningEvent
from realtime.scripted import MINI_LIKE, ScriptedEngine
from tests.realtime.stage import Stage
from tests.realtime.test_expansion import numeric
from tests.realtime.test_markdown import marked

ANSWER = (
    "## Your order 🎉\n\n**2** items for $15.50:\n\n- [Hello mug](https://shop.example/mug?id=7)\n- `SQL` book\n\n"
    "```json\n{'total': 15.5}\n```\nSee you on March 5!"
)


def stage_of(numbers_in_words: bool = True) -> Stage:
    info = replace(MINI_LIKE, numbers_in_words=numbers_in_words)
    return Stage(engine=ScriptedEngine(info=info))


def spoken(stage: Stage) -> str:
    """All that the engine remembers of the first turn."""
    stage.say("Next.")
    stage.run_until_done("turn-2")
    return " ".join(segment.text for segment in stage.engine.opened[-1].conversation.history)


def normalized(stage: Stage) -> list[str]:
    return [event.message for event in stage.all(WarningEvent) if event.code == WarningCode.TEXT_NORMALIZED]


def test_an_answer_is_read_as_a_person_would_and_reported_as_written() -> None:
    stage = stage_of()
    stage.configure(alignment="word", lexicon={"SQL": "sequel"})
    stage.say(ANSWER)
    done = stage.run_until_done()
    assert (done.heard.text, done.heard.remaining) == (ANSWER, "")
    items = [item for event in stage.all(Alignment) if event.final for item in event.items]
    assert all(ANSWER[item.char_start : item.char_end] == item.text for item in items)
    assert [item.text for item in items] == [
        *("Your", "order", "**2**", "items", "for", "$15.50:", "[Hello", "mug](https://shop.example/mug?id=7)"),
        *("`SQL`", "book", "See", "you", "on", "March", "5!"),
    ]
    assert spoken(stage) == (
        "Your order. two items for fifteen dollars and fifty cents: Hello mug. sequel book. See you on March fifth!"
    )


def test_each_kind_of_change_is_told_once_a_turn() -> None:
    stage = stage_of()
    stage.say(ANSWER)
    stage.run_until_done()
    assert [message.split(": ")[1].split(";")[0] for message in normalized(stage)] == [
        "Markdown marks are not read",
        "emoji are not read",
        "bullets are not read",
        "of an address only its text or its host is read",
        "a code block is left out",
    ]
    start = ANSWER.index("```json")
    end = ANSWER.index("\nSee you")
    assert normalized(stage)[4] == f"characters {start} to {end}: a code block is left out; told once a turn"
    stage.say("**Bold** again.")
    stage.run_until_done("turn-2")
    assert normalized(stage)[5:] == ["characters 0 to 2: Markdown marks are not read; told once a turn"]


def test_without_normalize_the_text_reaches_the_model_as_it_stands() -> None:
    stage = stage_of()
    stage.configure(normalize=False)
    stage.say("**2** items for $15.50 😀, yes.")
    stage.run_until_done()
    assert spoken(stage) == "**2** items for $15.50 😀, yes."
    assert normalized(stage) == []


def test_a_model_that_reads_numbers_gets_numbers() -> None:
    stage = stage_of(numbers_in_words=False)
    stage.say("**2** items for $15.50, yes.")
    stage.run_until_done()
    assert spoken(stage) == "2 items for $15.50, yes."


@pytest.mark.parametrize(
    ("language", "said"), [("de", "drei Komma fünf."), ("en", "three, five."), (None, "three, five.")]
)
def test_the_language_of_numbers_can_be_set(language: str | None, said: str) -> None:
    stage = stage_of()
    stage.configure(language=language)
    stage.say("3,5.")
    stage.run_until_done()
    assert spoken(stage) == said


def test_settings_of_text_hold_from_the_next_turn() -> None:
    stage = stage_of()
    stage.send("text.append", text="One **a")
    stage.configure(normalize=False, lexicon={"a": "ay"})
    stage.send("text.append", text="** here.")
    stage.send("turn.end")
    stage.run_until_done()
    assert spoken(stage) == "One a here."


def test_a_lexicon_that_would_make_tags_is_refused() -> None:
    stage = stage_of()
    stage.send("session.update", lexicon={"a": "[laugh]"})
    error = stage.one(ErrorEvent)
    assert (error.code, error.param) == ("invalid_value", "lexicon")


def test_a_turn_of_code_alone_says_nothing_and_is_completed() -> None:
    stage = stage_of()
    stage.say("```python\nprint(1)\n```\n")
    done = stage.run_until_done()
    assert (done.status, done.audio_ms, done.heard.text) == ("completed", 0, "```python\nprint(1)\n```\n")


@given(
    st.one_of(marked, numeric, st.tuples(marked, numeric).map("".join)),
    st.integers(0, 8000),
    st.integers(0, 4000),
    st.sampled_from(Snap),
)
@run_settings(max_examples=60, deadline=None)
def test_heard_and_remaining_are_the_raw_input_and_the_history_what_was_heard(
    text: str, wait_ms: int, played_ms: int, snap: Snap
) -> None:
    stage = stage_of()
    stage.configure(cut={"snap": snap.value})
    stage.say("Well, " + text)
    stage.run(wait_ms / 1000)
    stage.send("turn.cancel", played_ms=played_ms)
    done = stage.run_until_done() if not stage.all(TurnDone) else stage.all(TurnDone)[0]
    assert done.heard.text + done.heard.remaining == "Well, " + text
    assert done.heard.text == ("Well, " + text)[: done.heard.char_end]

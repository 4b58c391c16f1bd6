"""A conversation with a checkpoint that reads one script, by a client who writes others."""

from __future__ import annotations

import asyncio
import io
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from engine.api import ModelInfo
from protocol.audio_frame import AudioFrame
from protocol.config import Format, Latency, SamplingConfig
from protocol.messages import Alignment, TurnDone, WarningEvent
from realtime.say import SayOptions, once, say
from realtime.scripted import MINI_LIKE, ScriptedEngine
from realtime.server import create_app
from realtime.settings import Settings, SettingsError
from tests.realtime.running import running_server
from tests.realtime.stage import Stage

LATIN: ModelInfo = replace(MINI_LIKE, scripts=("Latin",))


def stage_of(info: ModelInfo = LATIN) -> Stage:
    return Stage(engine=ScriptedEngine(info=info))


def warnings(stage: Stage) -> list[tuple[str, str | None, str]]:
    return [(event.code, event.turn, event.message) for event in stage.all(WarningEvent)]


def spoken(stage: Stage) -> list[str]:
    """What the engine was given in the turns before this one, as the next turn's history has it."""
    stage.run(60.0)
    stage.say("And that was that.")
    stage.run_until_done()
    return [segment.text for segment in stage.engine.opened[-1].conversation.history]


def test_a_warning_names_the_script_and_the_place() -> None:
    stage = stage_of()
    stage.say("I said Привет to you.", "t")
    done = stage.run_until_done("t")
    ((code, turn, message),) = warnings(stage)
    assert (code, turn) == ("unsupported_script", "t")
    assert message.startswith("characters 7 to 13 are Cyrillic script")
    assert (done.status, done.heard.text, done.heard.remaining) == ("completed", "I said Привет to you.", "")
    assert spoken(stage)[0] == "I said to you."


def test_the_warning_comes_before_the_audio_that_it_is_about() -> None:
    stage = stage_of()
    stage.say("I said Привет to you.")
    stage.run_until_done()
    kinds = [type(message) for message in stage.written]
    assert kinds.index(WarningEvent) < kinds.index(AudioFrame)


def test_each_script_is_told_once_a_turn() -> None:
    stage = stage_of()
    text = "Москва, and then. Москва, and Ελλάδα again. 東京, at last. Москва."
    stage.say(text, "one")
    stage.run_until_done("one")
    scripts = [message.split(" are ")[1].split(" script")[0] for _, _, message in warnings(stage)]
    assert scripts == ["Cyrillic", "Greek", "Han"]
    stage.say("Москва, once more.", "two")
    stage.run_until_done("two")
    assert [turn for _, turn, _ in warnings(stage)] == ["one", "one", "one", "two"]


@pytest.mark.parametrize("text", ["Привет, мир! Как дела?", "العربية", "ภาษาไทย", "[шёпот] мир", "東京😀"])
def test_a_turn_in_another_script_is_silent_and_ends_well(text: str) -> None:
    stage = stage_of()
    stage.say(text)
    done = stage.run_until_done()
    assert (done.status, done.audio_ms, done.metrics.chunks) == ("completed", 0, 0)
    assert (done.heard.text, done.heard.remaining) == (text, "")
    assert warnings(stage)
    assert stage.engine.opened == []


def test_words_of_another_script_are_in_no_alignment() -> None:
    stage = stage_of()
    stage.configure(alignment="word")
    stage.say("I said Привет to you.")
    stage.run_until_done()
    words = {item.text for event in stage.all(Alignment) for item in event.items}
    assert words == {"I", "said", "to", "you."}


def test_a_cut_turn_accounts_for_all_of_its_text() -> None:
    stage = stage_of()
    text = "I said Привет to you, Москва, and you said Ελλάδα to me, did you not, my dear old friend."
    stage.say(text)
    stage.run(1.0)
    stage.send("turn.cancel", played_ms=600)
    done = stage.one(TurnDone)
    assert done.heard.text and done.heard.remaining
    assert done.heard.text + done.heard.remaining == text


@pytest.mark.parametrize("text", ["Zażółć gęślą jaźń.", "Tiếng Việt!", "Hello, 5 € … ٣ ＯＫ", "Ça va, ß?"])
def test_nothing_is_told_of_the_models_own_script_and_of_what_all_share(text: str) -> None:
    stage = stage_of()
    stage.say(text)
    assert stage.run_until_done().audio_ms > 0
    assert warnings(stage) == []


def test_a_model_that_declares_no_scripts_is_given_all_of_them() -> None:
    stage = stage_of(MINI_LIKE)
    stage.say("Привет, мир.")
    assert stage.run_until_done().audio_ms > 0
    assert warnings(stage) == []
    assert spoken(stage)[0] == "Привет, мир."


def test_a_checkpoint_that_names_no_real_script_is_not_served() -> None:
    async def scene() -> None:
        create_app(Settings(), ScriptedEngine(info=replace(MINI_LIKE, name="mine", scripts=("latin",))))

    with pytest.raises(SettingsError, match=r"mine: scripts \['latin'\]"):
        asyncio.run(scene())


def test_say_warns_and_the_list_of_models_tells_the_scripts(tmp_path: Path) -> None:
    err = io.StringIO()
    with running_server(info=LATIN) as (url, _):
        given = SayOptions(
            url=url.replace("http://", "ws://") + "/v1/live",
            key=None,
            voice=None,
            latency=Latency.LOW,
            sampling=SamplingConfig(),
            fmt=Format.PCM_S16LE,
            output=tmp_path / "out.wav",
            play=False,
            quiet=False,
        )
        assert say(given, once("I said Привет to you."), err) == 0
        (model,) = httpx.get(f"{url}/v1/models", trust_env=False).json()["data"]
    assert "warning: characters 7 to 13 are Cyrillic script, which this model cannot speak" in err.getvalue()
    assert model["scripts"] == ["Latin"]

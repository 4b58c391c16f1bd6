"""`parley chat` as a person uses it: a real server that speaks tones, a language model over real HTTP, a real terminal or pipe."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import soundfile

from realtime.chat import ChatOptions, Talk, chat
from realtime.context import Context, Said
from realtime.failure import INTERRUPTED, CommandFailed
from realtime.keyboard import Keyboard
from realtime.scripted import MINI_LIKE, Script
from tests.realtime.language_model import WrittenAnswers, language_model
from tests.realtime.running import running_server

LONG = (
    "Once upon a time there was a king, who had three daughters, and each of them had a garden, and in each garden was a well. "
    * 3
)


class Screen(io.StringIO):
    """Stdout, with somebody who does one thing after the other, each when it shows a text."""

    def __init__(self, *deeds: tuple[str, Callable[[], None]]) -> None:
        super().__init__()
        self._deeds = list(deeds)

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._deeds and self._deeds[0][0] in self.getvalue():
            self._deeds.pop(0)[1]()
        return written


@contextmanager
def typed(text: str) -> Iterator[Keyboard]:
    """A pipe with these lines."""
    reader, writer = os.pipe()
    os.write(writer, text.encode())
    os.close(writer)
    try:
        yield Keyboard(reader)
    finally:
        os.close(reader)


@contextmanager
def terminal() -> Iterator[tuple[Keyboard, Callable[[str], None]]]:
    """A terminal, and how its person types."""
    person, computer = os.openpty()
    try:
        yield Keyboard(computer), lambda text: os.write(person, text.encode()) and None
    finally:
        os.close(person)
        os.close(computer)


def options(url: str, llm: str, **changes: object) -> ChatOptions:
    plain: dict[str, object] = {
        "url": url.replace("http://", "ws://") + "/v1/live",
        "key": None,
        "voice": None,
        "llm_url": llm,
        "llm_model": None,
        "llm_key": None,
        "system": "",
        "output": None,
        "play": False,
    }
    return ChatOptions(**{**plain, **changes})  # type: ignore[arg-type]


def roles(messages: list[dict[str, str]]) -> list[str]:
    return [message["role"] for message in messages]


def test_what_was_heard_is_what_the_model_is_told_it_said() -> None:
    model = WrittenAnswers(["Good morning to you.", "Very well."])
    with running_server(Script(frames_per_char=0.1)) as (url, engine), language_model(model) as llm:
        screen = Screen()
        with typed("Good morning\n\nHow are you?\n") as keyboard:
            assert chat(options(url, llm, system="Be kind."), keyboard, screen) == 0
        _, first, second = engine.opened
    assert [asked["messages"] for asked in model.asked] == [
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Good morning"}],
        [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Good morning"},
            {"role": "assistant", "content": "Good morning to you."},
            {"role": "user", "content": "How are you?"},
        ],
    ]
    assert first.conversation.id == second.conversation.id
    shown = screen.getvalue().splitlines()
    assert shown[1:] == ["parley: toy listens", "Good morning to you.", "Very well."]


def test_the_conversation_knows_what_the_person_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[tuple[str, str]] = []

    class Noting(Context):
        def told(self, said: Said, max_chars: int) -> Context:
            kept.append((said.role, said.text))
            return super().told(said, max_chars)

    monkeypatch.setattr("realtime.session.Context", Noting)
    model = WrittenAnswers(["Good morning to you.", "Very well."])
    with (
        running_server(Script(frames_per_char=0.1)) as (url, _),
        language_model(model) as llm,
        typed("Good morning\n\n" + 5000 * "x" + "\n") as keyboard,
    ):
        assert chat(options(url, llm), keyboard, Screen()) == 0
    assert kept == [("user", "Good morning"), ("user", 4096 * "x"), ("user", 904 * "x")]


def test_a_machine_without_a_player_says_so_and_what_was_heard_is_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "heard.wav"
    model = WrittenAnswers(["Good morning to you.", "Very well."])
    with running_server(Script(frames_per_char=0.1)) as (url, engine), language_model(model) as llm:
        screen = Screen()
        with typed("Hello\nHow are you?") as keyboard:
            assert chat(options(url, llm, output=out, play=None), keyboard, screen) == 0
        frames = engine.steps - 1
    assert screen.getvalue().startswith("parley: nothing is played (none of these is installed: aplay")
    assert f"what is heard is written to {out}" in screen.getvalue()
    assert soundfile.info(out).frames == frames * MINI_LIKE.frame_samples


def test_a_player_that_is_asked_for_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        running_server() as (url, _),
        language_model(WrittenAnswers([])) as llm,
        typed("Hello") as keyboard,
        pytest.raises(CommandFailed, match="none of these players is installed"),
    ):
        chat(options(url, llm, play=True), keyboard, Screen())


def test_typing_interrupts_and_what_was_not_heard_is_forgotten(tmp_path: Path) -> None:
    model = WrittenAnswers([LONG, "Sorry."])
    out = tmp_path / "heard.wav"
    with running_server(Script(frames_per_char=1.0)) as (url, engine), language_model(model) as llm:
        with terminal() as (keyboard, types):
            screen = Screen(("Once", lambda: types("No, wait!\n")), ("Sorry.", lambda: types("\x04")))
            types("Tell me a story\n")
            assert chat(options(url, llm, output=out), keyboard, screen) == 0
        history = engine.opened[-1].conversation.history
    asked = model.asked[1]["messages"]
    assert roles(asked) == ["user", "assistant", "user"]
    assert asked[2]["content"] == "No, wait!"
    heard = asked[1]["content"]
    assert LONG.startswith(heard)
    assert 0 < len(heard) < len(LONG) / 2
    assert "".join(turn.text for turn in history).strip() == heard
    assert "characters were not heard and are forgotten" in screen.getvalue()
    # What is in the file is what was heard: of the story, a frame a character.
    assert soundfile.info(out).frames / MINI_LIKE.frame_samples == pytest.approx(len(heard) + len("Sorry."), abs=15)


def test_an_interruption_hangs_up_on_the_model() -> None:
    model = WrittenAnswers([LONG * 50])
    written = []
    with (
        running_server(Script(frames_per_char=0.5)) as (url, _),
        language_model(model) as llm,
        terminal() as (keyboard, types),
    ):
        screen = Screen(("Once", lambda: types("\x04")))
        types("Tell me a story\n")

        def slowly(piece: int) -> None:
            written.append(piece)
            if piece > 20:
                model.hung_up.wait(0.005)

        model.hold = slowly
        chat(options(url, llm), keyboard, screen)
    assert len(written) < len(LONG) * 10


def test_ctrl_c_stops_an_answer_and_a_second_one_the_talk() -> None:
    model = WrittenAnswers([LONG])
    with running_server(Script(frames_per_char=1.0)) as (url, engine), language_model(model) as llm:
        with terminal() as (keyboard, types):
            stop = partial(os.kill, os.getpid(), signal.SIGINT)
            screen = Screen(("Once", stop), ("forgotten", stop))
            types("Tell me a story\n")
            assert chat(options(url, llm), keyboard, screen) == INTERRUPTED
        assert not engine.streams


def test_a_model_that_breaks_off_is_an_error_of_that_answer_alone() -> None:
    model = WrittenAnswers(["Good morning to you.", "Very well."])
    model.ending = ['data: {"error": "out of memory"}']
    with running_server(Script(frames_per_char=0.1)) as (url, _), language_model(model) as llm:
        screen = Screen(("out of memory", lambda: setattr(model, "ending", ["data: [DONE]"])))
        with typed("Hello\nAgain\n") as keyboard:
            assert chat(options(url, llm), keyboard, screen) == 0
    assert roles(model.asked[1]["messages"])[-1] == "user"
    assert screen.getvalue().splitlines()[-1] == "Very well."


def test_a_model_that_is_not_there_ends_the_command() -> None:
    with (
        running_server() as (url, _),
        typed("Hello") as keyboard,
        pytest.raises(CommandFailed, match=r"127\.0\.0\.1:1"),
    ):
        chat(options(url, "http://127.0.0.1:1/v1"), keyboard, Screen())


def test_a_server_that_is_not_there_ends_the_command() -> None:
    with (
        language_model(WrittenAnswers(["Hello"])) as llm,
        typed("Hello") as keyboard,
        pytest.raises(CommandFailed, match="start one with: parley serve"),
    ):
        chat(options("http://127.0.0.1:1", llm), keyboard, Screen())


def test_what_was_heard_is_played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    player = folder / "aplay"
    player.write_text(
        f"#!{sys.executable}\nimport sys\nopen({str(tmp_path / 'heard')!r}, 'ab').write(sys.stdin.buffer.read())\n"
    )
    player.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    model = WrittenAnswers(["Good morning to you.", "Very well."])
    with running_server(Script(frames_per_char=0.1)) as (url, engine), language_model(model) as llm:
        with typed("Hello\nHow are you?") as keyboard:
            assert chat(options(url, llm, play=None, output=tmp_path / "out.wav"), keyboard, Screen()) == 0
        assert engine.steps > 2
    assert (tmp_path / "heard").read_bytes() == (tmp_path / "out.wav").read_bytes()[44:]


def test_nothing_heard_is_nothing_said() -> None:
    talk = Talk("")
    talk.asked("Hello")
    talk.answered(" ")
    talk.asked("Hello?")
    assert roles(talk.messages) == ["user", "user"]  # type: ignore[arg-type]

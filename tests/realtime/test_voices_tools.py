"""`parley voices add`, `list` and `remove` as they are typed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest

from realtime.arguments import build_parser
from realtime.cli import main
from realtime.scripted import MINI_LIKE, Script
from realtime.settings import PREFIX, Settings
from realtime.voice_folder import VoiceFolder
from tests.realtime.running import running_server
from tests.realtime.speechlike import RATE, TEXT, clean, file, with_noise

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whatever the machine that runs the tests has set, and a folder of voices of its own."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PARLEY_VOICES_DIR", str(tmp_path / "voices"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "anna.wav").write_bytes(file(clean()))
    (tmp_path / "bert.flac").write_bytes(file(clean(12.0, 3), kind="FLAC"))
    return tmp_path / "voices"


def voices(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `parley voices ...`."""
    try:
        code = main(["voices", *argv])
    except SystemExit as exit_:
        assert isinstance(exit_.code, int)
        code = exit_.code
    out, err = capsys.readouterr()
    return code, out, err


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def test_a_recording_becomes_a_voice_in_one_line(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = voices(capsys, "add", "anna", "anna.wav", "--text", TEXT)
    assert (code, err) == (0, "")
    assert out == "voice anna: one recording, 10.0 s. Try: parley say --voice anna 'Hello there.'\n"
    (source,) = VoiceFolder(store).sources("anna")
    assert source.text == TEXT and VoiceFolder(store).recording(source.recording).read_bytes() == file(clean())


def test_what_could_be_better_is_told_and_the_voice_is_made_all_the_same(
    tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noisy.wav").write_bytes(file(with_noise(clean(6.0), 15)))
    code, out, err = voices(capsys, "add", "anna", "noisy.wav", "--text", TEXT[:60])
    assert code == 0 and out.startswith("voice anna: one recording, 6.0 s")
    noise, short = err.splitlines()
    assert noise.startswith("parley: noisy.wav: what is heard between the words is only 15 dB below the speech")
    assert short.startswith("parley: noisy.wav: it is 6.0 s long")


def test_several_recordings_are_several_references_in_their_order(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two_in_one = f"<|speaker:1|>{TEXT[:66]}<|speaker:2|>{TEXT[66:]}"
    assert voices(capsys, "add", "duo", "anna.wav", "bert.flac", "--text", TEXT, "--text", two_in_one)[0] == 0
    assert [source.text for source in VoiceFolder(store).sources("duo")] == [TEXT, two_in_one]
    code, out, _ = voices(capsys, "add", "duo", "bert.flac", "--text", TEXT, "--append")
    assert code == 0 and out.startswith("voice duo: 3 recordings, 34.0 s")
    assert [source.text for source in VoiceFolder(store).sources("duo")] == [TEXT, two_in_one, TEXT]


@pytest.mark.parametrize(
    ("argv", "code", "line"),
    [
        (["anna", "none.wav", "--text", "x"], 1, "parley: none.wav cannot be read: No such file or directory"),
        (["anna", "text.txt", "--text", "x"], 1, "parley: text.txt is no sound that can be read; WAV, FLAC, AIFF, MP3 and Ogg can"),
        (["anna", "short.wav", "--text", "x"], 1, "parley: short.wav is 2.0 s long; a reference has 3 s at least"),
        (["anna", "anna.wav", "long.wav", "--text", TEXT, "--text", "x"], 1, "parley: long.wav is longer than 60 s"),
        (["anna", "silent.wav", "--text", "x"], 1, "parley: silent.wav is silent"),
        (["anna", "anna.wav", "--text", " "], 1, "parley: the transcript of anna.wav is empty"),
        (["anna", "anna.wav", "--text", "<|speaker:0|> "], 1, "parley: the transcript of anna.wav is empty"),
        (["a b", "anna.wav", "--text", TEXT], 2, "parley: voice 'a b' cannot be used: a name is 1 to 64 letters"),
        (["default", "anna.wav", "--text", TEXT], 2, "parley: voice 'default' cannot be used: a name is"),
        (["anna", "anna.wav", "--text", TEXT, "--append"], 1, "parley: there is no voice 'anna'"),
        (["anna", "anna.wav", "bert.flac", "--text", TEXT], 2, "parley: 2 recordings and 1 --text; every recording needs its own"),
        (["anna", "anna.wav"], 2, "parley: the following arguments are required: --text"),
        (["anna", "anna.wav", "--text", "x", "bert.flac", "--text", "y"], 2, "parley: unrecognized arguments: bert.flac"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_voice_is_told_and_nothing_is_stored(
    argv: list[str], code: int, line: str, tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("no sound")
    (tmp_path / "short.wav").write_bytes(file(clean(2.0)))
    (tmp_path / "long.wav").write_bytes(file(clean(61.0)))
    (tmp_path / "silent.wav").write_bytes(file(np.zeros(5 * RATE)))
    got, out, err = voices(capsys, "add", *argv)
    assert (got, out) == (code, "")
    assert err.splitlines()[-1].startswith(line)
    assert stored(store) == []


def test_a_voice_carries_three_minutes_at_most(tmp_path: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "long.wav").write_bytes(file(clean(50.0), subtype="PCM_U8"))
    texts = [word for _ in range(3) for word in ("--text", TEXT * 4)]
    assert voices(capsys, "add", "choir", *["long.wav"] * 3, *texts)[0] == 0
    code, _, err = voices(capsys, "add", "choir", "long.wav", "--text", TEXT * 4, "--append")
    assert code == 1 and err.splitlines()[-1] == "parley: 200 s of recordings are more than one voice carries, 180 s"
    assert len(VoiceFolder(store).sources("choir")) == 3


def test_list_and_remove(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert voices(capsys, "list") == (0, f"no voices in {store}\n", "")
    voices(capsys, "add", "duo", "anna.wav", "bert.flac", "--text", TEXT, "--text", "Kurz.")
    voices(capsys, "add", "b", "bert.flac", "--text", TEXT)
    (store / "odd.json").write_text("{}")
    shown = TEXT[:45] + "..."
    assert voices(capsys, "list")[1].splitlines() == [
        f"b     12.0 s  {shown}",
        f"duo   10.0 s  {shown}",
        "      12.0 s  Kurz.",
        "odd  voice 'odd' cannot be used: KeyError while reading it",
    ]
    assert voices(capsys, "remove", "duo", "nobody") == (1, "", "parley: there is no voice 'nobody'\n")
    assert voices(capsys, "remove", "duo", "odd", "duo") == (0, "voice duo is removed\nvoice odd is removed\n", "")
    assert voices(capsys, "remove", "b")[0] == 0
    assert stored(store) == []


def test_the_folder_is_the_persons_own_if_nobody_says_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PARLEY_VOICES_DIR")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert voices(capsys, "add", "anna", "anna.wav", "--text", TEXT)[0] == 0
    assert VoiceFolder(tmp_path / "data" / "parley" / "voices").names() == ["anna"]
    assert voices(capsys, "list", "--voices-dir", str(tmp_path / "other"))[1].startswith("no voices in")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.delenv("HOME")
    assert voices(capsys, "list") == (2, "", "parley: say which folder with --voices-dir: HOME is not set\n")


def choices(parser: ArgumentParser, dest: str) -> dict[str, ArgumentParser]:
    (action,) = [action for action in parser._actions if action.dest == dest]
    assert isinstance(action.choices, dict)
    return action.choices


def test_every_option_of_voices_is_explained() -> None:
    actions = choices(choices(build_parser("0"), "command")["voices"], "voices_command")
    assert list(actions) == ["add", "create", "list", "remove"]
    for name, parser in actions.items():
        assert f"usage: parley voices {name}" in parser.format_help()
        for action in parser._actions:
            assert action.help, f"{name} {action.dest}"
            if action.default not in (None, False, True, [], "==SUPPRESS=="):
                assert f"(default: {action.default})" in parser._get_formatter()._expand_help(action)


def test_adding_a_voice_loads_no_model(tmp_path: Path) -> None:
    code = (
        "import sys; from realtime.cli import main\n"
        f"assert main(['voices', 'add', 'anna', 'anna.wav', '--text', {TEXT!r}]) == 0\n"
        "print(sorted({'torch', 'starlette', 'uvicorn', 'huggingface_hub'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_a_voice_added_beside_a_running_server_is_spoken_with_at_once(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(port=0, voices_dir=store)
    with running_server(Script(frames_per_char=0.2), settings) as (url, engine):
        say = ["say", "Hello there.", "--no-play", "-q", "--url", url, "--voice", "anna"]
        assert main(say) == 1
        assert 'no voice "anna"' in capsys.readouterr().err
        assert voices(capsys, "add", "anna", "anna.wav", "--text", TEXT)[0] == 0
        assert main(say) == 0
        (reference,) = engine.opened[-1].voice.references
        assert reference.text == TEXT and reference.codes.shape == (MINI_LIKE.codebooks, int(10 * 22050 / 1024))
        assert voices(capsys, "add", "anna", "anna.wav", "bert.flac", "--text", TEXT, "--text", "Hi.")[0] == 0
        assert main(say) == 0
        assert len(engine.opened[-1].voice.references) == 2, "the newest, although the old one was known"
        assert voices(capsys, "remove", "anna")[0] == 0
        assert main(say) == 1
    assert stored(store) == []


def test_the_commands_of_the_guide_are_commands() -> None:
    guide = (ROOT / "realtime" / "VOICES.md").read_text(encoding="utf-8")
    commands = re.findall(r"^parley (voices .*?)(?:  +#.*)?$", guide, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        assert build_parser("0").parse_args(shlex.split(command)).command == "voices"

"""The commands as they are typed: what is said, where, and with which exit code; with real processes where a process is the point."""

import io
import json
import logging
import lzma
import os
import shutil
import signal
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from engine.api import ModelInfo
from realtime import cli
from realtime.arguments import build_parser
from realtime.arguments_bench import OWN_SERVER
from realtime.bench_server import serve_command
from realtime.cli import main, start_up_block
from realtime.scripted import MINI_LIKE, Script
from realtime.settings import KEYS_VARIABLE, PREFIX, Settings
from realtime.terminal import DownloadLine, LogLine
from tests.realtime.running import running_server

ROOT = Path(__file__).parents[2]
FIXTURE = ROOT / "tests" / "fixtures" / "s2pro"
COMMANDS = ("serve", "say", "encode", "generate", "decode", "download", "bench")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine that runs the tests has set."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny reference checkpoint in its real layout. Its weights are random: it cannot speak."""
    folder = tmp_path_factory.mktemp("s2pro")
    for source in FIXTURE.iterdir():
        if source.suffix == ".xz":
            (folder / source.stem).write_bytes(lzma.decompress(source.read_bytes()))
        else:
            shutil.copyfile(source, folder / source.name)
    return folder


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    try:
        code = main(list(argv))
    except SystemExit as exit_:
        assert isinstance(exit_.code, int)
        code = exit_.code
    out, err = capsys.readouterr()
    return code, out, err


def subparsers() -> dict[str, ArgumentParser]:
    parser = build_parser("0")
    found = {}
    for command in COMMANDS:
        (action,) = [action for action in parser._actions if action.dest == "command"]
        assert isinstance(action.choices, dict)
        found[command] = action.choices[command]
    return found


def in_a_process(*argv: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})}
    command = [sys.executable, "-m", "realtime.cli", *argv]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "--help")
    assert (code, err) == (0, "")
    assert all(f"    {command}" in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, command, "--help")
    assert code == 0
    for action in subparsers()[command]._actions:
        assert action.help, f"{command} {action.dest}"
        assert (action.option_strings[-1] if action.option_strings else str(action.metavar)) in out


def test_every_option_with_a_default_says_it() -> None:
    for command, parser in subparsers().items():
        for action in parser._actions:
            if action.default not in (None, False, [], "==SUPPRESS==") and action.option_strings:
                shown = parser._get_formatter()._expand_help(action)
                assert (
                    f"(default: {action.default:g})" in shown
                    if isinstance(action.default, float)
                    else (f"(default: {action.default})" in shown)
                ), f"{command} {action.option_strings}: {shown}"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['parley', '--help']\n"
        "from realtime.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'starlette', 'uvicorn', 'websockets', 'anyio', 'soundfile', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ([], "parley: the following arguments are required: COMMAND (see: parley --help)"),
        (["sing"], "parley: argument COMMAND: invalid choice: 'sing'"),
        (["say", "x", "--rate", "3"], "parley: unrecognized arguments: --rate 3"),
        (["say", "x", "--play", "--no-play"], "not allowed with argument --play"),
        (["say", "x", "--url", "localhost:8300"], "parley: localhost:8300 is no address of a server"),
        (["say", "x", "--top-p", "1.5"], "parley: --top-p 1.5: Input should be less than or equal to 1"),
        (["generate", "x", "-o", "y", "--seed", "-1"], "parley: --seed -1: Input should be greater than or equal to 0"),
        (["generate", "x"], "required: -o/--output"),
        (["decode", "x", "-o", "y", "--device", "tpu"], "'tpu' is none of auto, cpu, cuda, cuda:INDEX"),
        (["serve", "--max-streams", "0"], "'0' is not a number from 1 on"),
        (["serve", "--host", "0.0.0.0"], "parley: listening on 0.0.0.0 without a key"),
        (["serve", "--port", "70000"], "parley: port: Input should be less than or equal to 65535"),
        (["serve", "--tls-cert", "a.pem"], "parley: tls_cert and tls_key go together"),
        (["serve", "--key", "short"], "parley: keys: a key has at least 8 characters"),
        (["bench", "--streams", "-2"], "'-2' is not a number from 1 on"),
        (["bench", "--text-rate", "nan"], "'nan' is not a number from 0 on"),
        (["bench", "--url", "ws://x", "--device", "cpu"], "--device would change nothing about the server at ws://x"),
        (["bench", "--key", "a-long-key"], "parley: --key is for a server named with --url"),
    ],
)  # fmt: skip
def test_a_wrong_command_line_is_told_in_one_line(
    argv: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, *argv)
    assert (code, out) == (2, "")
    assert err.startswith("parley: ")
    assert err.count("\n") == 1
    assert line in err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["say", "x", "--no-play", "--url", "ws://127.0.0.1:1"], "parley: no server answers at ws://127.0.0.1:1/v1/live; start one"),
        (["encode", "none.wav", "-o", "x.npy"], "parley: none.wav cannot be read as sound"),
        (["decode", "none.npy", "-o", "x.wav"], "parley: none.npy cannot be read as codes"),
        (["serve", "none/such/folder"], "parley: none/such/folder: neither `mini`, nor a folder"),
        (["download", "not-a-repository"], "parley: not-a-repository: neither `mini`"),
        (["generate", "x", "-o", "y", "--prompt-text", "z"], "parley: 1 --prompt-text and 0 --prompt-codes"),
        (["bench", "--url", "http://127.0.0.1:1"], "parley: no server answers at ws://127.0.0.1:1/v1/live"),
    ],
)  # fmt: skip
def test_what_does_not_work_is_told_in_one_line(argv: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *argv)
    assert (code, out) == (1, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_say_writes_a_file_and_its_words_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running_server(Script(frames_per_char=0.2)) as (url, _):
        code, out, err = said(
            capsys, "say", "Hello there.", "-o", str(tmp_path / "out.wav"), "--url", url, "--seed", "3"
        )
    assert (code, out) == (0, "")
    assert err.startswith("Hello there.\nfirst audio after ")
    assert soundfile.info(tmp_path / "out.wav").duration > 0


def test_options_of_say_reach_the_server(tmp_path: Path) -> None:
    with running_server(Script(frames_per_char=0.2)) as (url, engine):
        argv = [
            "say",
            "Hello there.",
            "--no-play",
            "-q",
            "--url",
            url,
            "--seed",
            "3",
            "--top-k",
            "1",
            "--temperature",
            "0.5",
        ]
        assert main([*argv, "--format", "opus", "--latency", "quality"]) == 0
        params = engine.opened[1].params
    assert (params.seed, params.top_k, params.temperature) == (3, 1, 0.5)


def test_say_speaks_what_comes_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "text"
    path.write_text("Grüße aus der Datei.", encoding="utf-8")
    with running_server(Script(frames_per_char=0.2)) as (url, engine), path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        assert main(["say", "-o", str(tmp_path / "a.wav"), "--url", url, "-q"]) == 0
        assert len(engine.opened) == 2


def test_the_key_comes_from_the_environment_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEYS_VARIABLE, "first-long-key,second-key")
    settings = Settings(port=0, keys=("first-long-key",))  # type: ignore[arg-type]
    with running_server(Script(frames_per_char=0.2), settings) as (url, _):
        assert main(["say", "Hello.", "--no-play", "-q", "--url", url]) == 0
        assert main(["say", "Hello.", "--no-play", "-q", "--url", url, "--key", "another-key"]) == 1


def test_text_that_is_no_unicode_is_spoken_all_the_same() -> None:
    with running_server(Script(frames_per_char=0.2)) as (url, engine):
        assert main(["say", os.fsdecode(b"Hello \xff there."), "--no-play", "-q", "--url", url]) == 0
        assert len(engine.opened) == 2


def test_settings_of_the_command_line_go_before_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARLEY_PORT", "9001")
    monkeypatch.setenv("PARLEY_HOST", "::1")
    monkeypatch.setenv("PARLEY_MODEL", "some/model")
    args = build_parser("0").parse_args(["serve", "--port", "9002"])
    settings = cli._settings(args)
    assert (settings.port, settings.host, settings.model) == (9002, "::1", "some/model")
    assert not settings.uses_tls
    args = build_parser("0").parse_args(["serve", "--tls-self-signed"])
    assert cli._settings(args).tls_self_signed


def test_the_start_up_block_names_model_device_address_and_attribution() -> None:
    notice = "This model is licensed under a licence. Built with somebody"
    info = ModelInfo("s2-pro", 44100, 2048, 10, 40.0, attribution=notice, device="NVIDIA H200", dtype="bfloat16")
    lines = start_up_block(info, "http://127.0.0.1:8300").splitlines()
    assert lines[1:] == [
        "  model s2-pro",
        "  on NVIDIA H200, bfloat16",
        f"  {notice}",
        "  listening on http://127.0.0.1:8300",
    ]
    assert start_up_block(MINI_LIKE, "http://x").count("\n") == 3


def test_a_log_line_shows_what_was_logged_with_it() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(LogLine("%(levelname)s %(message)s"))
    logger = logging.Logger("test")
    logger.addHandler(handler)
    logger.warning("draining %s", "now", extra={"sessions": 3, "grace_s": 0.5})
    assert out.getvalue() == "WARNING draining now sessions=3 grace_s=0.5\n"


def test_the_server_of_a_bench_gets_what_was_given_and_room_for_every_stream() -> None:
    args = build_parser("0").parse_args(["bench", "--streams", "20", "--model", "some/model", "--device", "cuda:1"])
    given = {name: value for name in OWN_SERVER if (value := getattr(args, name)) is not None}
    command = serve_command(given, args.streams)
    assert command[4:] == [
        "serve", "some/model", "--port", "0", "--log-level", "warning", "--max-streams", "20", "--device", "cuda:1",
    ]  # fmt: skip
    served = build_parser("0").parse_args(command[4:])
    assert (served.model, served.max_streams, served.device) == ("some/model", 20, "cuda:1")


def test_the_server_of_a_bench_is_ours_in_whatever_folder_it_is_started(tmp_path: Path) -> None:
    for package in ("realtime", "engine", "protocol"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('somebody else')")
    command = [*serve_command({}, 1), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: parley serve")


def test_download_names_the_folder_the_licence_and_the_notice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder needs no download; the hub itself is tested with `engine.hub`."""
    for name in ("config.json", "tokenizer.json", "model.safetensors", "codec.pth"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "LICENSE.md").write_text("The Fish Audio Research License Agreement")
    code, out, _ = said(capsys, "download", str(tmp_path))
    assert code == 0
    folder, licence, notice = out.splitlines()
    assert folder == str(tmp_path)
    assert licence == "its licence is kept there: LICENSE.md"
    assert notice.startswith("This model is licensed under the Fish Audio Research License, Copyright (c) 39 AI, INC.")
    assert notice.endswith("Built with Fish Audio")


@pytest.mark.parametrize("watched", [True, False])
def test_a_download_shows_how_far_it_is(watched: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stderr(io.StringIO):
        def isatty(self) -> bool:
            return watched

    err = Stderr()
    monkeypatch.setattr(sys, "stderr", err)
    line = DownloadLine()
    for percent in range(101):
        line(pytest.importorskip("engine.hub").Progress("model.safetensors", percent * 10**7, 10**9))
    line.end()
    assert err.getvalue().endswith("(100 %)\n")
    assert len(err.getvalue().splitlines()) == (1 if watched else 11) or watched


@pytest.mark.torch
def test_a_recording_becomes_codes_and_codes_become_sound(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    when = np.arange(4410) / 22050
    soundfile.write(tmp_path / "a.wav", 0.3 * np.sin(2 * np.pi * 300 * when), 22050)
    model = ("--model", str(checkpoint), "--device", "cpu")
    code, out, err = said(capsys, "encode", str(tmp_path / "a.wav"), "-o", str(tmp_path / "a.npy"), *model)
    assert (code, err) == (0, "")
    codes = np.load(tmp_path / "a.npy")
    assert out.startswith(f"{tmp_path / 'a.npy'}: {codes.shape[0]} codebooks, {codes.shape[1]} frames, ")
    code, out, err = said(capsys, "decode", str(tmp_path / "a.npy"), "-o", str(tmp_path / "b.wav"), *model)
    assert (code, err) == (0, "")
    sound = soundfile.info(tmp_path / "b.wav")
    assert sound.frames % codes.shape[1] == 0
    assert out == f"{tmp_path / 'b.wav'}: {sound.duration:.2f} s at {sound.samplerate} Hz\n"


@pytest.mark.torch
def test_a_text_becomes_codes_in_the_voice_of_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.npy", tmp_path / "second.npy"
    assert main(["generate", "Hello there.", "-o", str(first), "--device", "cpu", "--seed", "1"]) == 0
    prompt = ("--prompt-text", "Hello there.", "--prompt-codes", str(first))
    assert main(["generate", "Good bye.", "-o", str(second), "--device", "cpu", "--top-k", "1", *prompt]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    config = json.loads((ROOT / "engine" / "mini" / "config.json").read_text())
    for path, line in zip((first, second), out.splitlines(), strict=True):
        codes = np.load(path)
        assert codes.shape[0] == config["audio_decoder_config"]["num_codebooks"]
        assert line.startswith(f"{path}: {codes.shape[0]} codebooks, {codes.shape[1]} frames, ")
        assert 0.3 < codes.shape[1] * MINI_LIKE.frame_s < 3


@pytest.mark.torch
def test_a_model_that_cannot_be_loaded_is_told_in_one_line(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = shutil.copytree(checkpoint, tmp_path / "broken")
    (broken / "config.json").write_text('{"model_type": "none"}')
    np.save(tmp_path / "a.npy", np.zeros((10, 3), np.int64))
    code, out, err = said(
        capsys, "decode", str(tmp_path / "a.npy"), "-o", str(tmp_path / "b.wav"), "--model", str(broken)
    )
    assert (code, out) == (1, "")
    assert err.startswith("parley: ")
    assert err.count("\n") == 1


@pytest.mark.torch
def test_serve_prints_one_block_speaks_and_ends_when_told_to(checkpoint: Path) -> None:
    with in_a_process("serve", str(checkpoint), "--port", "0", "--threads", "1", "--log-level", "warning") as server:
        assert server.stdout is not None and server.stderr is not None
        block = [server.stdout.readline() for _ in range(4)]
        assert block[1] == f"  model {checkpoint}\n"
        assert block[2] == "  on cpu, float32\n"
        url = block[3].removeprefix("  listening on ").strip()
        port = url.rpartition(":")[2]
        with in_a_process("serve", str(checkpoint), "--port", port) as second:
            out, err = second.communicate()
        assert (second.returncode, out) == (1, "")
        assert err == f"parley: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
        server.send_signal(signal.SIGTERM)
        out, err = server.communicate()
    assert (server.returncode, out, err) == (0, "", "")


@pytest.mark.torch
def test_ctrl_c_while_the_model_loads_ends_quietly(checkpoint: Path) -> None:
    with in_a_process("serve", str(checkpoint), "--port", "0") as server:
        assert server.stderr is not None
        assert " INFO parley.cli: loading " in server.stderr.readline()
        server.send_signal(signal.SIGINT)
        out, err = server.communicate()  # returns when the engine's process is gone, too: it has the same stderr
    assert (server.returncode, out, err) == (130, "", "")

from __future__ import annotations

import hashlib
import io
import os
import stat
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
import soundfile

from engine.api import SamplingParams
from realtime.audio import to_int16
from realtime.cli import main
from realtime.failure import CommandFailed
from realtime.scripted import MINI_LIKE, Script, ScriptedEngine
from realtime.settings import PREFIX
from realtime.voice_creation import TEXT, Creation, create
from realtime.voice_folder import VoiceFolder
from realtime.voices import VoiceStore

SENTENCE = "This is a sentence that is spoken for a few seconds, so that a voice can be known by it."


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)


def asked(folder: Path, **changes: object) -> Creation:
    plain = Creation("gruff", "[deep gravelly voice]", SENTENCE, 3, None, folder, False, SamplingParams(seed=5))
    return replace(plain, **changes)  # type: ignore[arg-type]


def created(
    creation: Creation, typed: str | None = None, engine: ScriptedEngine | None = None
) -> tuple[ScriptedEngine, str, str]:
    """The engine, what was printed and what was told; `typed`: what a person answers, None: there is nobody."""
    engine = engine or ScriptedEngine()
    out, err = io.StringIO(), io.StringIO()
    person = io.StringIO(typed) if typed is not None else None

    async def run() -> None:
        await create(creation, engine, VoiceFolder(creation.output / "voices"), person, out, err)

    anyio.run(run)
    return engine, out.getvalue(), err.getvalue()


def test_the_take_that_a_person_chooses_becomes_the_voice_as_it_is(tmp_path: Path) -> None:
    engine, out, _ = created(asked(tmp_path), typed="0\nfour\n4\n2\n")
    assert [opened.params.seed for opened in engine.opened] == [5, 6, 7], "every take has a seed of its own"
    assert out.count("which one to keep? 1 to 3, or nothing for none: ") == 4
    assert out.endswith("voice gruff: take 2. Try: parley say --voice gruff 'Hello there.'\n")
    (reference,) = VoiceStore(tmp_path / "voices", MINI_LIKE.codebooks).get("gruff").references
    heard, rate = soundfile.read(tmp_path / "gruff-2.wav", dtype="int16")

    async def decoded() -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
        return to_int16(await engine.decode(reference.codes))

    assert rate == 22050 and np.array_equal(anyio.run(decoded), heard), "the codes are those of the take that was heard"


def test_the_style_shapes_the_takes_and_is_no_part_of_the_transcript(tmp_path: Path) -> None:
    created(asked(tmp_path, style="deep gravelly voice", takes=1), typed="1\n")
    (reference,) = VoiceStore(tmp_path / "voices", MINI_LIKE.codebooks).get("gruff").references
    assert reference.text == SENTENCE
    tagged = len("[deep gravelly voice] ") + len(SENTENCE)
    assert reference.codes.shape == (MINI_LIKE.codebooks, tagged), "one frame for every character that was spoken"


def test_the_recording_of_the_take_is_kept_for_other_models(tmp_path: Path) -> None:
    created(asked(tmp_path, keep=1))
    folder = VoiceFolder(tmp_path / "voices")
    (source,) = folder.sources("gruff")
    wave = folder.recording(source.recording).read_bytes()
    assert wave == (tmp_path / "gruff-1.wav").read_bytes()
    assert source.recording == hashlib.sha256(wave).hexdigest()
    assert len(VoiceStore(tmp_path / "voices", 8, "another").missing("gruff")) == 1


def test_a_number_on_the_command_line_makes_that_take_alone(tmp_path: Path) -> None:
    engine, out, _ = created(asked(tmp_path, keep=3))
    assert [opened.params.seed for opened in engine.opened] == [7]
    assert [path.name for path in tmp_path.glob("*.wav")] == ["gruff-3.wav"]
    assert "voice gruff: take 3" in out


def test_where_nobody_can_choose_the_takes_are_written_and_no_voice_is_made(tmp_path: Path) -> None:
    _, out, _ = created(asked(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gruff-1.wav", "gruff-2.wav", "gruff-3.wav"]
    assert out.splitlines()[-1] == "listen to them, then type the same command again with --keep N"


@pytest.mark.parametrize("typed", ["\n", ""])
def test_none_is_an_answer(tmp_path: Path, typed: str) -> None:
    _, out, _ = created(asked(tmp_path), typed=typed)
    assert out.endswith("none is kept; another --seed makes others\n")
    assert VoiceFolder(tmp_path / "voices").names() == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "a b"}, "a name is 1 to 64 letters"),
        ({"style": "[laughs]"}, "is no style; one is like"),
        ({"style": "[deep voice] and text"}, "is no style"),
        ({"style": "[1]"}, "is no style"),
        ({"style": "[]"}, "is no style"),
        ({"keep": 4}, "--keep 4 is more than --takes 3"),
    ],
)
def test_what_cannot_be_is_told_before_anything_is_rendered(
    tmp_path: Path, changes: dict[str, object], why: str
) -> None:
    engine = ScriptedEngine()
    with pytest.raises(CommandFailed, match=why):
        created(asked(tmp_path, **changes), engine=engine)
    assert engine.opened == [] and list(tmp_path.iterdir()) == []


def test_a_take_that_is_no_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"take 1 has \d\.\d s, not 3 to 60: give another --text"):
        created(asked(tmp_path, text="Hi.", style="[low]"), engine=ScriptedEngine(Script(frames_per_char=0.5)))
    assert list(tmp_path.iterdir()) == []


def test_takes_are_played_and_a_player_that_fails_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = tmp_path / "heard"
    player = tmp_path / "bin" / "aplay"
    player.parent.mkdir()
    player.write_text(f"#!/bin/sh\n/bin/cat >> {heard}\n")
    player.chmod(player.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(player.parent))
    created(asked(tmp_path, play=True, takes=2), typed="\n")
    takes = [soundfile.read(tmp_path / f"gruff-{n}.wav", dtype="int16")[0].tobytes() for n in (1, 2)]
    assert heard.read_bytes() == b"".join(takes)
    player.write_text("#!/bin/sh\n/bin/cat > /dev/null; echo no card >&2; exit 3\n")
    _, out, err = created(asked(tmp_path, play=True), typed="1\n")
    assert err == "parley: cannot play: aplay ended with exit code 3: no card\n" and "voice gruff: take 1" in out


@pytest.mark.torch
def test_the_mini_invents_a_voice_and_a_server_could_speak_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARLEY_VOICES_DIR", str(tmp_path / "voices"))
    argv = ["voices", "create", "gruff", "--style", "[low pitch]", "--text", SENTENCE, "--seed", "3", "--device", "cpu"]
    assert main([*argv, "-o", str(tmp_path), "--takes", "2", "--keep", "2"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("voice gruff: take 2.")
    codes = list((tmp_path / "voices" / "codes").glob("*/*.npy"))
    assert len(codes) == 1 and codes[0].parent.name.endswith("-23lufs"), "named after the codec and the loudness"
    spoken = np.load(codes[0])
    assert soundfile.info(tmp_path / "gruff-2.wav").frames % spoken.shape[1] == 0
    folder = VoiceFolder(tmp_path / "voices")
    assert [source.text for source in folder.sources("gruff")] == [SENTENCE]


def test_the_text_that_is_spoken_if_none_is_given_is_of_a_length_that_makes_a_good_reference() -> None:
    assert 10 < len(TEXT) / 15 < 30, "at some 15 characters a second"

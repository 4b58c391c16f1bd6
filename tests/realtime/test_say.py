"""`parley say` as a person runs it: the whole command against a real server whose engine speaks tones."""

import io
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
import soundfile

from engine.api import SynthesisFailed
from protocol.commands import PlaybackState, PlaybackUpdate
from protocol.config import Format, Latency, Limits, SamplingConfig
from realtime.failure import INTERRUPTED, CommandFailed
from realtime.interruption import Interruptions
from realtime.say import SayOptions, Screen, once, say
from realtime.scripted import MINI_LIKE, Script
from realtime.settings import Settings
from realtime.typed_text import read_deltas
from tests.realtime.running import running_server

TEXT = "Hello there, old friend. [whisper] Can you hear me <|speaker:1|>through 3.5 walls? I doubt it, but who knows."
FRAME = MINI_LIKE.frame_samples


class Terminal(io.StringIO):
    """Stderr, with somebody who watches it: `on_text` is called with everything so far, once, as soon as there is a word."""

    def __init__(self, on_text: Callable[[str], None] = lambda text: None) -> None:
        super().__init__()
        self._on_text: Callable[[str], None] | None = on_text

    def write(self, text: str) -> int:
        written = super().write(text)
        if self._on_text is not None and text.strip():
            watcher, self._on_text = self._on_text, None
            watcher(self.getvalue())
        return written


def live(url: str) -> str:
    return url.replace("http://", "ws://") + "/v1/live"


def options(server: str, output: Path | None = None, **changes: object) -> SayOptions:
    given: dict[str, object] = {
        "key": None,
        "voice": None,
        "latency": Latency.LOW,
        "sampling": SamplingConfig(),
        "fmt": Format.PCM_S16LE,
        "output": output,
        "play": False,
        "quiet": False,
    }
    return SayOptions(**{"url": live(server), **given, **changes})  # type: ignore[arg-type]


@contextmanager
def pipe() -> Iterator[tuple[int, Callable[[bytes], None], Callable[[], None]]]:
    """A pipe into the command: its end there, and how to write and to close at this end."""
    reader, writer = os.pipe()

    def write(data: bytes) -> None:
        os.write(writer, data)

    try:
        yield reader, write, lambda: os.close(writer)
    finally:
        os.close(reader)


def sound(path: Path) -> bytes:
    return path.read_bytes()


def test_a_text_becomes_a_file_of_exactly_the_speech_that_was_generated(tmp_path: Path) -> None:
    err = Terminal()
    with running_server(Script(frames_per_char=0.5)) as (url, engine):
        assert say(options(url, tmp_path / "out.wav"), once(TEXT), err) == 0
        frames = engine.steps - 1  # the server's own warm-up
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.samplerate, info.channels, info.subtype) == (MINI_LIKE.sample_rate, 1, "PCM_16")
    assert info.frames == frames * FRAME
    shown, figures = err.getvalue().splitlines()
    assert shown == TEXT
    assert figures.startswith("first audio after ")
    assert f"; {frames * MINI_LIKE.frame_s:.2f} s of speech; real-time factor " in figures
    assert figures.endswith("out.wav")


def test_opus_arrives_at_its_own_rate_and_with_the_same_length(tmp_path: Path) -> None:
    with running_server(Script(frames_per_char=0.5)) as (url, engine):
        assert say(options(url, tmp_path / "out.wav", fmt=Format.OPUS), once(TEXT), Terminal()) == 0
        seconds = (engine.steps - 1) * MINI_LIKE.frame_s
    info = soundfile.info(tmp_path / "out.wav")
    assert info.samplerate == 48000
    assert info.duration == pytest.approx(seconds, abs=0.001)


def test_single_characters_from_a_pipe_give_the_same_sound_as_the_whole_text(tmp_path: Path) -> None:
    async def letters() -> AsyncIterator[str]:
        for char in TEXT:
            await anyio.lowlevel.checkpoint()
            yield char

    with running_server(Script(frames_per_char=0.2)) as (url, _):
        assert say(options(url, tmp_path / "whole.wav"), once(TEXT), Terminal()) == 0
        assert say(options(url, tmp_path / "letters.wav"), letters(), Terminal()) == 0
    # A tone follows from its segment's text, so other segments would sound otherwise.
    assert sound(tmp_path / "letters.wav") == sound(tmp_path / "whole.wav")


def test_audio_comes_before_the_text_ends(tmp_path: Path) -> None:
    out = tmp_path / "out.wav"

    async def hesitant() -> AsyncIterator[str]:
        """Goes on only when there is sound: without it this would never end."""
        yield TEXT[:30]
        while not out.exists() or not soundfile.info(out).frames:
            await anyio.lowlevel.checkpoint()
        yield TEXT[30:]

    with running_server(Script(frames_per_char=0.2)) as (url, _):
        assert say(options(url, out), hesitant(), Terminal()) == 0
        assert say(options(url, tmp_path / "whole.wav"), once(TEXT), Terminal()) == 0
    assert sound(out) == sound(tmp_path / "whole.wav")


def test_ctrl_c_stops_at_once_and_tells_what_is_in_the_file(tmp_path: Path) -> None:
    err = Terminal(lambda shown: os.kill(os.getpid(), signal.SIGINT))
    text = TEXT * 20
    with running_server(Script(step_s=0.005)) as (url, engine):
        assert say(options(url, tmp_path / "out.wav"), once(text), err) == INTERRUPTED
        assert not engine.streams
    lines = err.getvalue().splitlines()
    heard, remaining = lines[-2].removeprefix("heard: "), lines[-1].removeprefix("not heard: ")
    assert lines[-2:] == [f"heard: {heard}", f"not heard: {remaining}"]
    assert text.startswith(heard)
    assert text.endswith(remaining)
    assert (heard + remaining).replace(" ", "") == text.replace(" ", "")
    # The scripted engine takes a frame for each character; a word of which half was heard counts.
    frames = soundfile.info(tmp_path / "out.wav").frames / FRAME
    assert len(heard) == pytest.approx(frames, abs=15)


def test_a_very_long_text_is_spoken_in_turns_of_one_conversation(tmp_path: Path) -> None:
    text = TEXT * 40
    err = Terminal()
    with running_server(Script(frames_per_char=0.02)) as (url, engine):
        assert say(options(url, tmp_path / "out.wav"), once(text), err) == 0
        _, first, second, *rest = engine.opened
        frames = engine.steps - 1
    assert not rest
    assert first.conversation.id == second.conversation.id
    assert second.conversation.history
    assert err.getvalue().splitlines()[0] == text
    assert soundfile.info(tmp_path / "out.wav").frames == frames * FRAME


def test_text_that_comes_after_a_long_pause_is_spoken_in_another_turn(tmp_path: Path) -> None:
    settings = Settings(port=0, limits=Limits(turn_idle_ms=100))
    with pipe() as (reader, write, close), running_server(Script(frames_per_char=0.1), settings) as (url, engine):

        def go_on(shown: str) -> None:
            """Somebody thought about it until the first word was spoken: no word ends without a pause or the end of the turn."""
            write(b" And now more.")
            close()

        write(b"Hello")
        err = Terminal(go_on)
        assert say(options(url, tmp_path / "out.wav"), read_deltas(reader), err) == 0
        _, first, second = engine.opened
        frames = engine.steps - 1
    assert first.conversation.id == second.conversation.id
    assert "Hello And now more." in err.getvalue()
    assert "warning" not in err.getvalue()
    assert soundfile.info(tmp_path / "out.wav").frames == frames * FRAME


def test_speed_and_volume_are_heard(tmp_path: Path) -> None:
    with running_server(Script(frames_per_char=0.3)) as (url, _):
        for name, changes in (("plain", {}), ("fast", {"speed": 2.0}), ("soft", {"volume_db": -6.0})):
            assert say(options(url, tmp_path / f"{name}.wav", **changes), once(TEXT), Terminal()) == 0
    plain, fast, soft = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("plain", "fast", "soft"))
    assert len(fast) == pytest.approx(len(plain) / 2, rel=0.01)
    assert soft.std() == pytest.approx(plain.std() / 2, rel=0.02)


def test_quiet_says_nothing(tmp_path: Path) -> None:
    err = Terminal()
    with running_server(Script(frames_per_char=0.1)) as (url, _):
        assert say(options(url, tmp_path / "out.wav", quiet=True), once(TEXT), err) == 0
    assert err.getvalue() == ""


def test_a_text_that_nobody_can_speak_is_an_empty_recording(tmp_path: Path) -> None:
    err = Terminal()
    with running_server() as (url, _):
        assert say(options(url, tmp_path / "out.wav"), once("... !"), err) == 0
    assert soundfile.info(tmp_path / "out.wav").frames == 0
    assert err.getvalue().splitlines()[-1] == "nothing in that text can be spoken"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"voice": "nobody"}, 'voice_not_found (voice): no voice "nobody"'),
        (
            {"url": "ws://127.0.0.1:1/v1/live"},
            "no server answers at ws://127.0.0.1:1/v1/live; start one with: parley serve",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, changes: dict[str, object], line: str) -> None:
    with running_server() as (url, _), pytest.raises(CommandFailed) as failure:
        say(options(url, tmp_path / "out.wav", **changes), once(TEXT), Terminal())
    assert str(failure.value) == line
    assert not (tmp_path / "out.wav").exists()


def test_a_wrong_key_is_refused_and_a_right_one_is_not(tmp_path: Path) -> None:
    settings = Settings(port=0, keys=("a-long-key",))  # type: ignore[arg-type]
    with running_server(Script(frames_per_char=0.1), settings) as (url, _):
        with pytest.raises(CommandFailed, match="401"):
            say(options(url, tmp_path / "out.wav", key="another-key"), once(TEXT), Terminal())
        assert say(options(url, tmp_path / "out.wav", key="a-long-key"), once(TEXT), Terminal()) == 0


def test_no_text_at_all_is_an_error(tmp_path: Path) -> None:
    with running_server() as (url, _), pytest.raises(CommandFailed, match=r"^there is no text to speak$"):
        say(options(url, tmp_path / "out.wav"), once(""), Terminal())


def test_a_turn_that_fails_is_an_error_and_leaves_a_whole_file(tmp_path: Path) -> None:
    script = Script(step_s=0.03, errors={12: SynthesisFailed("degenerate", "segment 1 came out silent")})
    with running_server(script) as (url, _), pytest.raises(CommandFailed, match="came out silent"):
        say(options(url, tmp_path / "out.wav"), once(TEXT), Terminal())
    assert 0 < soundfile.info(tmp_path / "out.wav").frames <= 11 * FRAME


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with running_server() as (url, _), pytest.raises(CommandFailed, match="No such file or directory"):
        say(options(url, tmp_path / "none" / "out.wav"), once(TEXT), Terminal())


def install_player(monkeypatch: pytest.MonkeyPatch, folder: Path, code: str) -> None:
    """`aplay`, and no other program."""
    bin_folder = folder / "bin"
    bin_folder.mkdir()
    (bin_folder / "aplay").write_text(f"#!{sys.executable}\nimport sys\n{code}\n", encoding="utf-8")
    (bin_folder / "aplay").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_folder))


def test_a_player_hears_what_the_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_player(monkeypatch, tmp_path, f"open({str(tmp_path / 'heard')!r}, 'wb').write(sys.stdin.buffer.read())")
    with running_server(Script(frames_per_char=0.1)) as (url, engine):
        assert say(options(url, tmp_path / "out.wav", play=True), once(TEXT), Terminal()) == 0
        assert engine.steps > 1
    assert (tmp_path / "heard").read_bytes() == sound(tmp_path / "out.wav")[44:]


def test_without_a_player_a_file_is_proposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with running_server() as (url, _), pytest.raises(CommandFailed, match=r"^none of these players .*-o FILE$"):
        say(options(url, play=True), once(TEXT), Terminal())


def test_a_player_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_player(monkeypatch, tmp_path, "sys.exit('no soundcards found')")
    with running_server() as (url, _), pytest.raises(CommandFailed, match=r"aplay ended .*: no soundcards found"):
        say(options(url, play=True), once(TEXT * 5), Terminal())


def test_ctrl_c_after_the_last_packet_still_cuts_what_was_not_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The player has it all and would play for seconds; the turn is done, and yet the server learns what was heard."""
    install_player(monkeypatch, tmp_path, "sys.stdin.buffer.read()\nimport signal\nsignal.pause()")

    class Watched(Terminal):
        def write(self, text: str) -> int:
            written = super().write(text)
            if self.getvalue().endswith(TEXT):  # the last words are shown when the turn is done
                os.kill(os.getpid(), signal.SIGINT)
            return written

    err = Watched()
    with running_server(Script(frames_per_char=0.35)) as (url, _):
        assert say(options(url, play=True), once(TEXT), err) == INTERRUPTED
    shown, heard, remaining = err.getvalue().splitlines()
    assert shown == TEXT
    assert heard.startswith("heard: ")
    assert remaining.startswith("not heard: ")
    assert len(remaining) > len("not heard: ")


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[PlaybackUpdate]:
    """What the server is told of the listener, and takes."""
    taken: list[PlaybackUpdate] = []

    class Noting(Interruptions):
        def report(self, command: PlaybackUpdate, now: float) -> None:
            super().report(command, now)
            taken.append(command)

    monkeypatch.setattr("realtime.session.Interruptions", Noting)
    return taken


def test_the_server_is_told_how_far_the_player_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reports: list[PlaybackUpdate]
) -> None:
    install_player(monkeypatch, tmp_path, "import time\nsys.stdin.buffer.read()\ntime.sleep(0.6)")
    err = Terminal()
    with running_server(Script(frames_per_char=0.35)) as (url, _):
        assert say(options(url, play=True), once(TEXT), err) == 0
    assert "invalid_value" not in err.getvalue()
    *playing, ended = reports
    assert {report.state for report in playing} == {PlaybackState.PLAYING}
    assert [report.played_ms for report in playing] == sorted({report.played_ms for report in playing})
    assert ended.state is PlaybackState.ENDED
    assert ended.played_ms > playing[-1].played_ms


def test_the_server_is_told_that_a_file_has_everything(tmp_path: Path, reports: list[PlaybackUpdate]) -> None:
    with running_server(Script(frames_per_char=0.02)) as (url, _):
        assert say(options(url, tmp_path / "out.wav"), once(TEXT * 40), Terminal()) == 0
    assert [(report.turn, report.state) for report in reports] == [(f"t{n}", PlaybackState.ENDED) for n in (1, 2)]
    assert sum(report.played_ms for report in reports) == pytest.approx(
        soundfile.info(tmp_path / "out.wav").duration * 1000, abs=2
    )


def test_the_screen_shows_nothing_that_a_terminal_would_obey() -> None:
    err = Terminal()
    screen = Screen(err, quiet=False)
    screen.words("a\x1b[2Jb\tc\n", 10)
    screen.line("d\x07")
    assert err.getvalue() == "a\ufffd[2Jb\tc\nd\ufffd\n"


def test_the_screen_shows_each_word_once() -> None:
    err = Terminal()
    screen = Screen(err, quiet=False)
    for until in (3, 7, 3, 7, 11):
        screen.words("one two three", until)
    screen.end_line()
    screen.end_line()
    assert err.getvalue() == "one two thr\n"

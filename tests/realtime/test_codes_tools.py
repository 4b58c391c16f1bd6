"""The files between encode, generate and decode, and what generate makes of an engine's events."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import anyio
import numpy as np
import pytest
import soundfile

from engine.api import Codes, Conversation, SamplingParams, SegmentEnd, StreamEvent, SynthesisFailed, Voice
from realtime.codes_tools import generate, read_codes, read_recording, voice_of, write_codes, write_sound
from realtime.failure import CommandFailed
from realtime.scripted import MINI_LIKE, Cut, Script, ScriptedEngine, ScriptedStream

TEXT = "The old gardener found a lantern near the station, and nobody complained. " * 6
CODES: Codes = (np.arange(24, dtype=np.int16) * 37 % 1024).reshape(8, 3)


def generated(
    engine: ScriptedEngine, text: str = TEXT, voice: Voice | None = None, params: SamplingParams | None = None
) -> tuple[Codes, list[str]]:
    notes: list[str] = []

    async def run() -> Codes:
        return await generate(engine, text, voice or Voice("none"), params or SamplingParams(), notes.append)

    return anyio.run(run), notes


def test_codes_come_back_from_their_file_as_they_were(tmp_path: Path) -> None:
    write_codes(tmp_path / "codes", CODES)
    assert np.load(tmp_path / "codes").dtype == np.int64
    back = read_codes(tmp_path / "codes")
    assert back.dtype == np.int16
    assert np.array_equal(back, CODES)


def test_codes_with_an_axis_of_one_in_front_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "codes.npy", CODES[None].astype(np.int32))
    assert np.array_equal(read_codes(tmp_path / "codes.npy"), CODES)


@pytest.mark.parametrize(
    ("array", "why"),
    [
        (np.zeros((8, 3)), r"holds float64 \[8, 3\]; codes are integers"),
        (np.zeros(8, np.int64), r"holds int64 \[8\]"),
        (np.zeros((8, 0), np.int64), r"holds int64 \[8, 0\]"),
        (np.full((8, 3), -1), "holds -1 to -1; codes are indices"),
        (np.full((8, 3), 40_000), "holds 40000 to 40000"),
        (np.array([{"a": 1}]), "cannot be read as codes: .*allow_pickle"),
    ],
)
def test_what_is_no_codes_is_refused(tmp_path: Path, array: np.ndarray, why: str) -> None:
    np.save(tmp_path / "codes.npy", array)
    with pytest.raises(CommandFailed, match=why):
        read_codes(tmp_path / "codes.npy")


def test_a_file_that_is_not_numpys_or_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "codes.npy").write_bytes(b"RIFF")
    for name in ("codes.npy", "none.npy"):
        with pytest.raises(CommandFailed, match=f"{name} cannot be read as codes"):
            read_codes(tmp_path / name)


def test_several_arrays_in_one_file_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "voice.npz", codes_0=CODES)
    with pytest.raises(CommandFailed, match="holds several arrays"):
        read_codes(tmp_path / "voice.npz")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_a_recording_in_stereo_becomes_mono(tmp_path: Path, suffix: str) -> None:
    left = np.sin(np.arange(16_000) / 20).astype(np.float32)
    path = tmp_path / f"sound.{suffix}"
    soundfile.write(path, np.stack([left * 0.5, left * 0.1], axis=1), 16_000)
    samples, rate = read_recording(path)
    assert (samples.shape, rate) == ((16_000,), 16_000)
    assert samples.dtype == np.float32
    assert np.corrcoef(samples, left)[0, 1] > 0.99
    assert np.abs(samples).max() == pytest.approx(0.3, abs=0.05)


def test_a_text_file_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "sound.wav").write_text("Hello", encoding="utf-8")
    for name in ("sound.wav", "none.wav"):
        with pytest.raises(CommandFailed, match=f"{name} cannot be read as sound"):
            read_recording(tmp_path / name)


def test_sound_is_written_at_its_rate(tmp_path: Path) -> None:
    samples = np.array([0.0, 0.5, -1.0], np.float32)
    write_sound(tmp_path / "out.wav", samples, 44_100)
    back, rate = soundfile.read(io.BytesIO((tmp_path / "out.wav").read_bytes()), dtype="float32")
    assert rate == 44_100
    assert back.tolist() == samples.tolist()


def test_a_text_is_generated_in_the_segments_that_a_server_would_make() -> None:
    engine = ScriptedEngine(Script(frames_per_char=0.1))
    codes, notes = generated(engine)
    assert codes.shape == (MINI_LIKE.codebooks, engine.steps)
    assert len(set(codes[0].tolist())) > 1  # each segment has a tone of its own
    assert not notes
    assert engine.opened[0].turn == 1


def test_sampling_and_voice_reach_the_engine() -> None:
    engine = ScriptedEngine(Script(frames_per_char=0.1))
    voice = voice_of(["Hello."], [CODES])
    params = SamplingParams(temperature=0.5, top_k=3, seed=9, max_frames=7)
    codes, notes = generated(engine, voice=voice, params=params)
    assert engine.opened[0].params == params
    assert engine.opened[0].voice is voice
    assert codes.shape[1] == 7
    assert notes[-1].endswith("was cut: length")


def test_what_was_mended_is_told() -> None:
    engine = ScriptedEngine(Script(frames_per_char=0.1, retries={0: "silence"}, cuts={1: Cut(3, "runaway")}))
    codes, notes = generated(engine)
    assert notes[0].endswith("is generated again: silence")
    assert notes[1].startswith("segment 2 of ")
    assert notes[1].endswith(" was cut: runaway")
    assert codes.shape[1] == engine.steps


class LateGuard(ScriptedEngine):
    """Notices at the end of a segment that only its first `sane` frames were speech."""

    sane = 2

    def open(self, conversation: Conversation, voice: Voice, params: SamplingParams, turn: int) -> ScriptedStream:
        sane = self.sane

        class Stream(ScriptedStream):
            def step(self) -> StreamEvent | None:
                event = super().step()
                return SegmentEnd(event.segment, sane, "silence") if isinstance(event, SegmentEnd) else event

        stream = Stream(self, conversation.id, params, turn)
        self.streams[conversation.id] = stream
        return stream


def test_frames_that_are_no_speech_are_left_out() -> None:
    codes, notes = generated(LateGuard(Script(frames_per_char=0.1)))
    assert codes.shape[1] == LateGuard.sane * len(notes)


def test_where_no_frame_is_speech_there_are_no_codes() -> None:
    engine = LateGuard(Script(frames_per_char=0.1))
    engine.sane = 0
    with pytest.raises(CommandFailed, match="the model said nothing"):
        generated(engine)


def test_an_engine_that_fails_is_not_hidden() -> None:
    engine = ScriptedEngine(Script(errors={2: SynthesisFailed("degenerate", "it came out silent")}))
    with pytest.raises(SynthesisFailed, match="it came out silent"):
        generated(engine)


def test_a_text_that_cannot_be_spoken_is_refused() -> None:
    with pytest.raises(CommandFailed, match="nothing in that text can be spoken"):
        generated(ScriptedEngine(), "... !")


@pytest.mark.parametrize(("texts", "codes"), [(["a"], []), ([], [CODES]), (["a", "b"], [CODES])])
def test_recordings_without_a_text_or_texts_without_a_recording_are_refused(
    texts: Sequence[str], codes: Sequence[Codes]
) -> None:
    with pytest.raises(CommandFailed, match="every recording needs both"):
        voice_of(texts, codes)


def test_voices_are_the_same_exactly_when_text_and_codes_are() -> None:
    ids = {
        voice_of(texts, codes).id
        for texts, codes in [
            (["a"], [CODES]),
            (["b"], [CODES]),
            (["a"], [CODES[:, :2]]),
            (["a", "a"], [CODES, CODES]),
            ([], []),
        ]
    }
    assert len(ids) == 5
    assert voice_of(["a"], [CODES.copy()]).id in ids


def test_text_that_the_model_cannot_read_is_told_and_left_out() -> None:
    engine = ScriptedEngine(info=replace(MINI_LIKE, scripts=("Latin",)))
    codes, notes = generated(engine, "I said Привет to you.")
    assert codes.shape[1] == len("I said to you.")
    assert notes == ["characters 7 to 13 are Cyrillic script, which this model cannot speak: such text is left out"]
    with pytest.raises(CommandFailed, match="nothing in that text"):
        generated(engine, "Привет.")


def test_text_of_a_language_model_is_read_as_a_person_would() -> None:
    engine = ScriptedEngine(info=replace(MINI_LIKE, numbers_in_words=True))
    codes, notes = generated(engine, "**I** said *you* have 2 of them 😀.")
    assert codes.shape[1] == len("I said you have two of them.")
    assert sorted(notes) == [
        "characters 0 to 2: Markdown marks are not read",
        "characters 32 to 33: emoji are not read",
    ]

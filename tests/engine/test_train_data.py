"""Training data: what is written, how it sounds, and what the model is asked to predict."""

from __future__ import annotations

import ctypes.util
import random
import re
import signal
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("wordfreq", reason="the recipe needs the optional extra `train`")
if ctypes.util.find_library("espeak-ng") is None:
    pytest.skip("the recipe needs the system package espeak-ng", allow_module_level=True)

from engine.train.phones import SILENCE, phone_class, phone_track
from engine.train.render import FRAME_SAMPLES, Renderer
from engine.train.script import ConversationScript, Phrase, ScriptWriter, SegmentScript, TurnScript
from engine.train.styles import SPEAKERS, Style, deliver, free_form_tags, random_speaker, style_tag, unknown_tag
from engine.train.synthesize import SynthesisPlan, synthesize
from engine.train.teacher import Teacher
from engine.train.tokens import NOTHING, Packer, conversation_tokens, stack_rows

SENTENCE = "The children were laughing and chasing each other in the garden."
END = 1024


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(Teacher(), random.Random(0))


@pytest.fixture(scope="module")
def scripts() -> list[ConversationScript]:
    writer = ScriptWriter(random.Random(1))
    return [writer.conversation() for _ in range(300)]


def say(renderer: Renderer, style: Style = Style.NORMAL, **phrase: float | int) -> np.ndarray:
    spoken = Phrase("", SENTENCE, SPEAKERS[0], style, **phrase)  # type: ignore[arg-type]
    return renderer.turn(TurnScript((SegmentScript((spoken,)),)), "en-us").clip.samples.astype(float)


def test_no_two_conversations_are_alike(scripts: list[ConversationScript]) -> None:
    texts = [str([s.phrases for turn in script.turns for s in turn.segments]) for script in scripts]
    assert len(set(texts)) == len(texts)


def test_a_style_in_force_is_restated_where_a_later_segment_of_the_turn_starts(
    scripts: list[ConversationScript],
) -> None:
    restated = 0
    for turn in (turn for script in scripts for turn in script.turns):
        for before, after in zip(turn.segments, turn.segments[1:], strict=False):
            tag = f"[{before.phrases[-1].style.value}]"
            named = tag in before.phrases[-1].tags and before.phrases[-1].style is not Style.NORMAL
            same = after.phrases[0].speaker == before.phrases[-1].speaker  # else he has a style of his own
            if named and same and after.phrases[0].style is before.phrases[-1].style:
                assert tag in after.phrases[0].tags
                restated += 1
    assert restated > 5


def test_training_never_hears_a_held_out_voice(scripts: list[ConversationScript]) -> None:
    voices = {phrase.speaker for script in scripts for segment in script.references for phrase in segment.phrases}
    assert len(voices) > 50
    assert not any(voice.held_out for voice in voices)
    assert random_speaker(random.Random(2), held_out=True).held_out


def test_neighbours_kept_for_evaluation_are_never_written() -> None:
    rng = random.Random(3)
    for style in Style:
        written = {style_tag(style, rng)[1:-1].lower() for _ in range(3000)}
        assert style.value in written
        assert not written & set(free_form_tags(style))


def test_a_tag_that_means_nothing_has_no_relative_of_a_style_in_it() -> None:
    rng = random.Random(4)
    asked = [
        unknown_tag(word, rng)
        for word in ("shouting", "whispered", "slowest", "loudness", "pausing")
        for _ in range(50)
    ]
    assert not any(re.search("shout|whisp|slow|loud|paus", tag) for tag in asked)
    assert any("table" in unknown_tag("table", rng) for _ in range(50))


def test_slow_is_longer_fast_is_shorter_loud_is_louder(renderer: Renderer) -> None:
    plain = say(renderer)
    assert len(say(renderer, Style.SLOW)) > 1.2 * len(plain)
    assert len(say(renderer, Style.FAST)) < 0.85 * len(plain)
    assert np.std(say(renderer, Style.LOUD)) > 1.5 * np.std(plain)
    assert np.std(say(renderer, Style.SOFT)) < 0.6 * np.std(plain)


def test_a_whisper_changes_the_variant_and_nothing_else_about_the_speaker() -> None:
    whisper = deliver(SPEAKERS[1], Style.WHISPER).tone
    assert whisper.variant == "whisperf"
    assert (whisper.rate, whisper.pitch) == (SPEAKERS[1].tone.rate, SPEAKERS[1].tone.pitch)


def test_a_pause_is_silence_of_its_length(renderer: Renderer) -> None:
    paused = say(renderer, pause_s=0.6)
    assert not paused[: int(0.55 * 22050)].any()
    assert len(paused) - len(say(renderer)) == pytest.approx(0.6 * 22050, abs=FRAME_SAMPLES)


def test_a_barge_in_cuts_text_and_audio_together(renderer: Renderer) -> None:
    phrase = Phrase("", SENTENCE, SPEAKERS[0], Style.NORMAL)
    whole = renderer.turn(TurnScript((SegmentScript((phrase,)),)), "en-us").segments[0]
    cut = renderer.turn(TurnScript((SegmentScript((phrase,)),), cut=0.5), "en-us").segments[0]
    assert not cut.ended
    assert SENTENCE.startswith(cut.text.rstrip())
    assert SENTENCE[len(cut.text.rstrip())] == " ", "the cut is at a word's end"
    share = len(cut.text) / len(SENTENCE)
    assert cut.frames / whole.frames == pytest.approx(share, abs=0.15)


def test_labels_say_which_sound_stands_in_the_middle_of_a_hop() -> None:
    track = phone_track([("h", 0), ("_:", 512), ("?not-a-sound", 600)], 1024, 256)
    assert track.tolist() == [phone_class("h"), phone_class("h"), SILENCE, SILENCE]


def outline(frames: int, ended: bool) -> dict[str, list[object]]:
    return {"references": [], "turns": [[{"text": "Hi.", "frames": frames, "ended": ended, "learned": True}]]}


def test_each_frame_is_predicted_by_the_position_before_it_and_the_end_by_the_last() -> None:
    codes = np.arange(24, dtype=np.int16).reshape(8, 3)
    matrix, targets = conversation_tokens(outline(3, True), [codes], END)
    at = np.flatnonzero(targets != NOTHING)
    assert targets[at].tolist() == [*codes[0], END]
    np.testing.assert_array_equal(matrix[1:, at[1:]], codes)


def test_a_cut_segment_teaches_no_ending() -> None:
    codes = np.zeros((8, 3), np.int16)
    _, targets = conversation_tokens(outline(3, False), [codes], END)
    assert END not in targets
    assert (targets != NOTHING).sum() == 3


def test_packing_keeps_every_conversation_whole() -> None:
    packer, rows = Packer(positions=256, open_rows=2), []
    conversations = []
    for n in (40, 100, 3, 60, 9, 80):
        codes = np.full((8, n), n, np.int16)
        conversations.append(conversation_tokens(outline(n, True), [codes], END))
        rows += packer.add(conversations[-1])
    packed = stack_rows([*rows, *packer.drain()], positions=256)
    found = []
    for matrix, documents, positions in zip(packed.matrix, packed.documents, packed.positions, strict=True):
        for document in range(documents.max() + 1):
            where = documents == document
            assert positions[where].tolist() == list(range(where.sum()))
            found.append(matrix[:, where])
    assert sorted(m.shape[1] for m in found) == sorted(m.shape[1] for m, _ in conversations)
    assert sum(int(m.astype(int).sum()) for m in found) == sum(int(m.astype(int).sum()) for m, _ in conversations)


def crashing_once(plan: SynthesisPlan, worker: int, attempt: int, left: Synchronized[float]) -> None:
    """In place of a worker: the library goes down at the first attempt."""
    if attempt == 0:
        signal.raise_signal(signal.SIGSEGV)
    (plan.folder / f"made-{worker}-{attempt}").touch()
    left.value = 0.0


def failing(plan: SynthesisPlan, worker: int, attempt: int, left: Synchronized[float]) -> None:
    """In place of a worker: fails by itself."""
    raise SystemExit(3)


def test_a_worker_that_the_teacher_took_down_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.train.synthesize._work", crashing_once)
    synthesize(SynthesisPlan(tmp_path, 0.01, 2, 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made-0-1", "made-1-1"]


def test_a_worker_that_fails_by_itself_ends_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.train.synthesize._work", failing)
    with pytest.raises(RuntimeError, match="exit code 3"):
        synthesize(SynthesisPlan(tmp_path, 0.01, 2, 1))

"""Recognisers and speaker models from outside: what they are given, what is made of their answers, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("transformers", reason="needs the optional extra `evaluate`")

from engine.api import Samples
from engine.evaluate.external import (
    OutsideModelError,
    OutsideRecognizer,
    OutsideSpeakers,
    load_recognizer,
    load_speaker_model,
    rows,
    word_error_rate,
)
from engine.evaluate.wording import Errors
from engine.resample import resample
from tests.engine.outside_models import CTC_VOCABULARY, WHISPER_WINDOW_S, save_ctc, save_whisper, save_xvector

RATE = 22050


def noise(seconds: float, seed: int, rate: int = RATE) -> Samples:
    return (np.random.default_rng(seed).standard_normal(int(seconds * rate)) * 0.1).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def ctc_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ctc(tmp_path_factory.mktemp("ctc"))


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def xvector_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_xvector(tmp_path_factory.mktemp("xvector"))


@pytest.fixture(scope="module")
def ctc(ctc_folder: Path) -> OutsideRecognizer:
    return load_recognizer(str(ctc_folder), "cpu")


@pytest.fixture(scope="module")
def whisper(whisper_folder: Path) -> OutsideRecognizer:
    return load_recognizer(str(whisper_folder), "cpu")


@pytest.fixture(scope="module")
def speakers(xvector_folder: Path) -> OutsideSpeakers:
    return load_speaker_model(str(xvector_folder), "cpu")


@pytest.fixture(params=["ctc", "whisper"])
def recognizer(request: pytest.FixtureRequest) -> OutsideRecognizer:
    found: OutsideRecognizer = request.getfixturevalue(request.param)
    return found


def test_a_clip_is_heard_alike_alone_and_among_others(recognizer: OutsideRecognizer) -> None:
    clips = [noise(seconds, seed) for seed, seconds in enumerate((0.8, 1.9, 1.3, 0.9, 1.1, 0.6, 0.7, 1.0, 1.2, 1.4))]
    together = recognizer.transcribe(clips, RATE, ["en"] * len(clips))
    assert together == [recognizer.transcribe([clip], RATE, ["en"])[0] for clip in clips]
    assert len(set(together)) > 1 and all(together)


def test_clips_are_brought_to_the_rate_of_the_model(recognizer: OutsideRecognizer) -> None:
    clip = noise(1.0, 3)
    assert recognizer.transcribe([clip], RATE, ["en"]) == recognizer.transcribe(
        [resample(clip, RATE, 16000)], 16000, ["en"]
    )


def test_a_clip_of_nothing_or_next_to_nothing_can_be_heard(recognizer: OutsideRecognizer) -> None:
    assert len(recognizer.transcribe([np.zeros(0, np.float32), np.zeros(3, np.float32)], RATE, ["en", "en"])) == 2


def test_no_clips_give_no_transcripts(recognizer: OutsideRecognizer) -> None:
    assert recognizer.transcribe([], RATE, []) == []


@dataclass
class SpelledLogits:
    """In place of the network: the frames of its answer are written out, one token a frame."""

    config: object
    device: torch.device
    frames: Sequence[str]

    def __call__(self, **inputs: torch.Tensor) -> SpelledLogits:
        return self

    @property
    def logits(self) -> torch.Tensor:
        ids = torch.tensor([[CTC_VOCABULARY.index(token) for token in self.frames]])
        return torch.nn.functional.one_hot(ids, len(CTC_VOCABULARY)).float()


def test_ctc_frames_collapse_and_a_blank_keeps_doubled_letters(ctc: OutsideRecognizer) -> None:
    frames = ["h", "h", "e", "<pad>", "l", "l", "<pad>", "l", "o", "|", "|", "<s>", "<unk>", "y", "o", "<pad>"]
    model = SpelledLogits(ctc._model.config, torch.device("cpu"), frames)
    spelled = OutsideRecognizer("spelled", model, ctc._front, ctc._tokenizer, True)
    assert spelled.transcribe([noise(1.0, 0)], RATE, ["en"]) == ["hello yo"]


def test_a_whisper_of_several_languages_is_told_each_clips_language(whisper: OutsideRecognizer) -> None:
    clip = noise(1.0, 1)
    heard = whisper.transcribe([clip, clip, clip], RATE, ["en", "de", "zh"])
    assert len(set(heard)) > 1
    assert heard == [whisper.transcribe([clip], RATE, [language])[0] for language in ("en", "de", "zh")]


def test_a_whisper_of_one_language_is_not_told_any(tmp_path: Path) -> None:
    english = load_recognizer(str(save_whisper(tmp_path, multilingual=False)), "cpu")
    clip = noise(1.0, 1)
    one, other = english.transcribe([clip, clip], RATE, ["en", "de"])
    assert one == other != ""


def test_a_whisper_goes_on_hearing_beyond_its_window(whisper: OutsideRecognizer) -> None:
    first, rest = noise(WHISPER_WINDOW_S, 1), noise(2 * WHISPER_WINDOW_S, 2)
    long, beside = whisper.transcribe([np.concatenate((first, rest)), first], RATE, ["en", "en"])
    assert len(long) > len(beside) > 0


def test_vectors_are_of_length_one_and_do_not_depend_on_neighbours(speakers: OutsideSpeakers) -> None:
    clips = [noise(1.0, 0), noise(2.0, 1), np.zeros(0, np.float32)]
    vectors = speakers.embed(clips, RATE)
    assert vectors.shape == (3, 12)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert np.array_equal(vectors[1:2], speakers.embed(clips[1:2], RATE))


def test_a_voice_is_like_itself_however_loud(speakers: OutsideSpeakers) -> None:
    clip = noise(1.5, 4)
    one, other = speakers.embed([clip, clip * np.float32(0.25)], RATE)
    assert float(one @ other) == pytest.approx(1.0, abs=1e-3)


class Listener:
    """Hears from a script, and notes what it was told."""

    name = "listener"

    def __init__(self, heard: Sequence[str]) -> None:
        self.heard = list(heard)
        self.languages: list[str] = []

    def transcribe(self, clips: Sequence[Samples], sample_rate: int, languages: Sequence[str]) -> list[str]:
        self.languages += languages
        return self.heard[: len(clips)]


def test_word_errors_are_counted_over_all_clips_together() -> None:
    texts = ["It costs $9.", "Nobody came."]
    errors = word_error_rate(Listener(["it cost nine dollars", "nobody came"]), texts, [noise(0.1, 0)] * 2, RATE)
    assert errors == Errors(1, 6)


def test_the_row_holds_the_models_rate_and_the_teachers() -> None:
    texts, clips = ["one two"], [noise(0.1, 0)]
    (row,) = rows(Listener(["one too"]), texts, clips, clips, RATE)
    assert (row.key, row.value, row.teacher, row.count) == ("word_error_rate", 0.5, 0.5, 1)
    assert rows(Listener(["one two"]), texts, clips, None, RATE)[0].teacher is None


def test_the_language_is_the_scripts_unless_given() -> None:
    asked = Listener(["", ""])
    word_error_rate(asked, ["Hello.", "你好。"], [noise(0.1, 0)] * 2, RATE)
    word_error_rate(asked, ["Guten Tag."], [noise(0.1, 0)], RATE, "de")
    assert asked.languages == ["en", "zh", "de"]


def test_an_x_vector_model_is_no_recogniser_and_says_what_it_is(xvector_folder: Path) -> None:
    with pytest.raises(OutsideModelError, match=r"is a model of type wavlm \(WavLMForXVector\), neither a CTC nor"):
        load_recognizer(str(xvector_folder), "cpu")


def test_a_whisper_is_no_speaker_model(whisper_folder: Path) -> None:
    with pytest.raises(OutsideModelError, match="is a model of type whisper, which has no x-vectors"):
        load_speaker_model(str(whisper_folder), "cpu")


def test_a_recogniser_whose_file_lacks_its_head_is_refused(ctc_folder: Path, tmp_path: Path) -> None:
    folder = save_ctc(tmp_path / "headless")
    weights = {
        name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "lm_head" not in name
    }
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(OutsideModelError, match=r"no usable weights for lm_head\.bias and 1 more of Wav2Vec2ForCTC"):
        load_recognizer(str(folder), "cpu")


def test_weights_that_only_training_uses_may_be_missing(tmp_path: Path) -> None:
    folder = save_ctc(tmp_path / "pruned")
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.endswith("masked_spec_embed")}
    assert len(kept) == len(weights) - 1
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    assert load_recognizer(str(folder), "cpu").transcribe([noise(1.0, 0)], RATE, ["en"])


@pytest.mark.parametrize("load", [load_recognizer, load_speaker_model])
def test_a_folder_without_a_model_is_refused_in_one_line(load: object, tmp_path: Path) -> None:
    assert callable(load)
    with pytest.raises(OutsideModelError) as refused:
        load(str(tmp_path), "cpu")
    assert str(refused.value).startswith(f"cannot load the configuration of {tmp_path}: ")
    assert "\n" not in str(refused.value)


def test_a_config_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such thing"}))
    with pytest.raises(OutsideModelError, match="cannot load the configuration of"):
        load_recognizer(str(tmp_path), "cpu")


def test_a_path_that_leads_nowhere_is_not_looked_up_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(OutsideModelError, match=r"there is no folder .*gone"):
        load_recognizer(str(tmp_path / "gone"), "cpu")


@pytest.mark.parametrize(
    ("file", "content", "what"),
    [
        ("model.safetensors", b"", "weights"),
        ("model.safetensors", b"no tensors at all", "weights"),
        ("vocab.json", None, "tokenizer"),
        ("processor_config.json", None, "feature extractor"),
        ("config.json", b"{", "configuration"),
    ],
)
def test_a_broken_folder_is_refused_by_its_broken_part(
    tmp_path: Path, file: str, content: bytes | None, what: str
) -> None:
    path = save_ctc(tmp_path) / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(OutsideModelError, match=f"cannot load the {what} of {tmp_path}: "):
        load_recognizer(str(tmp_path), "cpu")


def test_without_transformers_the_message_names_the_extra(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from engine.evaluate.external import OutsideModelError, load_recognizer\n"
        "try:\n    load_recognizer('x', 'cpu')\nexcept OutsideModelError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip().endswith("pip install 'parley[evaluate]'"), done.stderr

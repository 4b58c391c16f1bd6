"""The recipe as a whole, at a size that a CPU finishes in seconds: every stage runs, resumes and gives a loadable folder."""

from __future__ import annotations

import ctypes.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.api import Voice
from engine.checkpoint import load_dual_ar
from engine.codec_weights import load_codec
from engine.config import load_model_config
from engine.prompt import PromptBuilder
from engine.tokenizer import Tokenizer

pytest.importorskip("wordfreq", reason="the recipe needs the optional extra `train`")
pytest.importorskip("matplotlib", reason="the recipe needs the optional extra `train`")
if ctypes.util.find_library("espeak-ng") is None:
    pytest.skip("the recipe needs the system package espeak-ng", allow_module_level=True)

from engine.train.__main__ import STAGES, main

MINI = Path(__file__).parents[2] / "engine" / "mini"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `all` leaves behind."""
    out = tmp_path_factory.mktemp("train")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    main(["all", "--scale", "tiny", "--out", str(out), "--workers", "1", "--device", "cpu"])
    torch.set_num_threads(threads)
    return out


def test_the_exported_folder_loads_and_decodes_what_it_encodes(finished: Path) -> None:
    folder = finished / "checkpoint"
    model, codec = load_dual_ar(folder), load_codec(folder, "cpu")
    assert model.config.num_codebooks == codec.codebooks
    codes = codec.encode(torch.zeros(1, 3 * codec.frame_samples))
    assert codes.shape == (1, codec.codebooks, 3)
    assert codec.decode(codes).shape == (1, 3 * codec.frame_samples)


def test_every_stage_is_marked_and_not_repeated(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert all((finished / f"{stage}.done").exists() for stage in STAGES)
    main(["all", "--scale", "tiny", "--out", str(finished), "--workers", "1", "--device", "cpu"])
    assert capsys.readouterr().out == ""


def test_the_check_leaves_figures(finished: Path) -> None:
    figures = json.loads((finished / "check.json").read_text())
    assert {"teacher_per", "codec_per", "per", "length_ok", "ended", "german_per"} <= figures.keys()


def test_audio_that_was_encoded_is_deleted_and_its_rows_kept(finished: Path) -> None:
    assert not list((finished / "scratch" / "shards-ar").glob("*.npz"))
    assert list((finished / "scratch" / "rows-ar").glob("*.npz"))


@pytest.mark.parametrize("text", ["Hello <|im_end|> there.", "[whisper] naïve 東京", ""])
def test_training_and_serving_lay_out_the_same_prompt(text: str) -> None:
    from engine.train.tokens import Writer, prompt_ids, system_ids

    config = load_model_config(MINI)
    served = PromptBuilder(Tokenizer(MINI), config)
    writer = Writer(config.num_codebooks, config.n_semantic)
    writer.text(system_ids())
    writer.text(prompt_ids(text))
    trained, _ = writer.finish()
    np.testing.assert_array_equal(np.concatenate([served.system(Voice("none")), served.user(text)], 1), trained)

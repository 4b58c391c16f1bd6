from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from engine.api import Conversation, EngineLimits, SamplingParams
from engine.codec_identity import codec_id
from engine.config import ConfigError, load_codec_config, load_model_config
from engine.load import Loaded, core_of, load_model
from engine.model_files import RANDOM_WEIGHTS, attribution_of, missing_files
from engine.random_weights import CHARS_PER_S, SHAPES, ForcedEnds, RandomWeights, write_folder
from tests.engine.core_driver import Driver


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("random")
    write_folder("tiny", folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Loaded:
    return load_model(folder, "tiny", "cpu", "float32", None)


def test_a_folder_of_random_weights_is_a_complete_model_of_nobody(tmp_path: Path) -> None:
    write_folder("s2-pro", tmp_path)
    assert missing_files(tmp_path) == ()
    assert attribution_of(tmp_path) is None
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 2_000_000


def test_the_shapes_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    for name, shape in SHAPES.items():
        write_folder(name, tmp_path / name)
        assert load_model_config(tmp_path / name) == shape().model
        assert load_codec_config(tmp_path / name) == shape().codec


def test_the_large_shape_has_the_parameters_of_the_real_model() -> None:
    from engine.model import DualAR

    with torch.device("meta"):
        model = DualAR(SHAPES["s2-pro"]().model)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_561_852_416  # spec: header of the real files


def test_the_same_seed_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    write_folder("tiny", tmp_path, seed=1)
    first, same, other = (
        RandomWeights(seed).model(folder, "cpu", torch.float32).embeddings.weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert codec_id(folder) != codec_id(tmp_path)


def test_making_a_codec_leaves_the_random_numbers_of_others_alone(folder: Path) -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    RandomWeights(0).codec(folder, "cpu")
    assert torch.equal(torch.rand(4), wanted)


def test_a_description_without_a_seed_is_refused(tmp_path: Path) -> None:
    write_folder("tiny", tmp_path)
    (tmp_path / RANDOM_WEIGHTS).write_text("{}")
    with pytest.raises(ConfigError, match="names no seed"):
        load_model(tmp_path, "tiny", "cpu", "float32", None)


def test_a_segment_lasts_as_long_as_its_text_on_average() -> None:
    ends, text = ForcedEnds(0, 0.05), "x" * 90
    seconds = [ends.frames(text) * 0.05 for _ in range(4000)]
    assert statistics.mean(seconds) == pytest.approx(90 / CHARS_PER_S, rel=0.05)
    assert statistics.stdev(seconds) > 2


def test_every_segment_ends_where_its_end_was_forced_and_is_audible(loaded: Loaded) -> None:
    assert loaded.random is not None
    expected = ForcedEnds(loaded.random.seed, loaded.info.frame_s)
    lengths = [expected.frames(text) for text in ("One short sentence.", "And another one.")]
    driver = Driver(core_of(loaded, EngineLimits(max_streams=2, kv_positions=4096)))
    params = SamplingParams(max_frames=10_000)
    heard = driver.open(Conversation("a"), "One short sentence.", "And another one.", frames=10_000, params=params)
    driver.run(3000)
    assert [end.frames for end in heard.ends] == lengths
    assert all(end.cut is None for end in heard.ends)
    assert heard.ended is not None and heard.ended.error is None
    assert 0.01 < np.sqrt(np.square(heard.samples).mean()) < 0.5


def test_prompts_are_about_as_long_as_a_real_tokenizer_makes_them(tmp_path: Path) -> None:
    write_folder("s2-pro", tmp_path)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "Yesterday the careful gardener found a silver bicycle near the station, and nobody complained."
    encoded = tokenizer.encode(text)
    assert 2.5 < len(text) / len(encoded.ids) < 5
    assert tokenizer.decode(encoded.ids) == text
    assert max(encoded.ids) < load_model_config(tmp_path).im_end - 1

"""From a folder to a core that is warm."""

import shutil
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch

from engine import load
from engine.api import Admission, Conversation, EngineLimits, ModelInfo, SynthesisFailed
from engine.codec_identity import codec_id
from engine.commands import Report
from engine.gaze import Gaze
from engine.kv import CachedSequence
from engine.load import DEFAULT_HISTORY_S, LEAST_ROOM, PASTS, load_core, load_model, warm_up
from engine.model import Hidden
from tests.engine.core_driver import Driver, assert_nothing_leaked, tiny_core, tiny_model


def test_a_loaded_core_is_warm_and_as_new(s2pro: Path) -> None:
    core = load_core(s2pro, "tiny", "cpu", "float32", EngineLimits(2, 512, threads=1), "A notice.", guarded=False)
    assert core.info == ModelInfo(
        "tiny", 44100, 2048, 10, DEFAULT_HISTORY_S, "A notice.", "cpu", "float32", codec_id(s2pro)
    )
    assert core.cache.counters.prefilled > 0 and not core.cache._conversations
    assert_nothing_leaked(core)
    warm, cold = (Driver(it) for it in (core, tiny_core(s2pro)))
    heard = [driver.open(Conversation("a"), "Hello there.", frames=3) for driver in (warm, cold)]
    warm.run()
    cold.run()
    assert (heard[0].codes == heard[1].codes).all()
    core.close()


def test_auto_takes_what_a_cpu_is_good_at(s2pro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    loaded = load_model(s2pro, "tiny", "auto", "auto", None)
    assert (loaded.info.device, loaded.info.dtype) == ("cpu", "float32")
    assert loaded.model.dtype == torch.float32


def test_a_dtype_that_does_not_exist_is_named(s2pro: Path) -> None:
    with pytest.raises(ValueError, match="'float8' is not one of auto, float32"):
        load_model(s2pro, "tiny", "cpu", "float8", None)


def test_a_checkpoint_says_how_it_wants_to_be_used(s2pro: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(s2pro, folder)
    config = (folder / "config.json").read_text()
    declared = '{"max_history_s": 60, "scripts": ["Latin"], "numbers_in_words": true,'
    (folder / "config.json").write_text(config.replace("{", declared, 1))
    info = load_model(folder, "tiny", "cpu", "float32", None).info
    assert (info.max_history_s, info.scripts, info.numbers_in_words) == (60.0, ("Latin",), True)


def test_limits_that_leave_no_room_to_speak_are_an_error_at_the_start(s2pro: Path) -> None:
    with pytest.raises(SynthesisFailed, match="no room"):
        load_core(s2pro, "tiny", "cpu", "float32", EngineLimits(1, 32, threads=1), None)


def test_a_core_that_was_warmed_up_tells_how_many_streams_it_carries(s2pro: Path) -> None:
    core = tiny_core(s2pro, max_streams=3, admission=Admission.MEASURED)
    assert core.step().load is None
    warm_up(core)
    load = core.step().load
    assert load is not None and load.carries >= 1
    assert list(core._pace._seen) == [1, 2, 3] or core._pace.step_s(3) > core.info.frame_s
    assert_nothing_leaked(core)


def test_a_cache_with_room_for_one_stream_is_enough_to_start(s2pro: Path) -> None:
    core = tiny_core(s2pro, max_streams=8, kv_positions=64, admission=Admission.MEASURED)
    warm_up(core)
    assert_nothing_leaked(core)


def test_cores_share_a_model_and_nothing_else(s2pro: Path) -> None:
    loaded = tiny_model(s2pro)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    first, second = Driver(tiny_core(s2pro)), Driver(tiny_core(s2pro))
    first.open(Conversation("a"), "Hello there.", frames=4)
    first.run()
    assert not second.core.cache._conversations and not second.core.has_work()
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.model.state_dict().items())


@pytest.mark.parametrize(
    ("device", "triton", "capability", "quick"),
    [
        ("cuda", True, (9, 0), True),
        ("cuda", True, (7, 5), False),
        ("cuda", False, (9, 0), False),
        ("cpu", True, (9, 0), False),
    ],
)
def test_graphs_and_kernels_serve_where_they_can_be_had(
    monkeypatch: pytest.MonkeyPatch, device: str, triton: bool, capability: tuple[int, int], quick: bool
) -> None:
    monkeypatch.setattr(load, "find_spec", lambda name: ModuleSpec(name, None) if triton else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert load._quick(torch.device(device)) == quick


def test_a_gpu_s_first_uses_are_over_before_anybody_listens(s2pro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made of them on a GPU can only be seen there; that each was made, and leaves nothing behind, here too."""
    core = tiny_core(s2pro, kv_positions=1024)
    core.info = replace(core.info, device="a GPU")
    prefilled: list[int] = []
    prefill, done = core._runner.prefill, {}

    def prefilling(sequence: CachedSequence, new: int, *gaze: Gaze) -> Hidden:
        prefilled.append(new)
        return prefill(sequence, new, *gaze)

    step = core.step

    def stepping() -> Report:
        report = step()
        done.update(report.done)
        return report

    monkeypatch.setattr(core._runner, "prefill", prefilling)
    monkeypatch.setattr(core, "step", stepping)
    warm_up(core)
    longest = max(past for past in PASTS if past + LEAST_ROOM < 1024)
    assert sum(prefilled) > longest and max(prefilled) > 128
    assert done == {0: None, 1: None}, "one recording was encoded, and codes were decoded"
    assert not core.has_work()
    assert_nothing_leaked(core)

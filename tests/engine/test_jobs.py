"""Recordings to codes and codes to samples, in slices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine import commands as c
from engine import jobs
from engine.api import Conversation, EngineError, EngineLimits, SynthesisFailed
from engine.codec_weights import load_codec
from engine.core import JOB_PATIENCE, EngineCore
from engine.graphed_encoder import GraphedEncoder
from engine.jobs import GPU_SLICE_FRAMES, GRAPH_SLICE_FRAMES, SLICE_FRAMES, regrouped, resampled
from engine.load import core_of
from engine.resample import resample
from engine.streaming import StreamingEncoder
from tests.engine.core_driver import Driver, random_codes, tiny_core, tiny_model

MakeCore = Callable[[Path], EngineCore]

FRAME = 2048  # samples of the tiny checkpoint
RATE = 44100


def tone(samples: int) -> np.ndarray:
    return np.sin(np.arange(samples) / 20).astype(np.float32) * 0.3


def send(core: EngineCore, job: int, samples: np.ndarray, rate: int = RATE, piece: int = 3000) -> None:
    core.handle(c.Encode(job, rate, samples.size))
    for start in range(0, samples.size, piece):
        core.handle(c.Recording(job, samples[start : start + piece]))


class Results:
    """What the jobs of a core gave."""

    def __init__(self, core: EngineCore) -> None:
        self.core = core
        self.pieces: dict[int, list[np.ndarray]] = {}
        self.done: dict[int, EngineError | None] = {}
        self.steps = 0

    def run(self) -> Results:
        while self.core.has_work():
            report = self.core.step()
            self.steps += 1
            for job, piece in report.pieces:
                assert job not in self.done, "nothing follows the end of a job"
                self.pieces.setdefault(job, []).append(piece)
            assert not self.done.keys() & report.done.keys(), "a job ends once"
            self.done |= report.done
        return self

    def of(self, job: int) -> np.ndarray:
        assert self.done[job] is None
        return np.concatenate(self.pieces[job], axis=-1)


@pytest.mark.parametrize("frames", [1, SLICE_FRAMES, 2 * SLICE_FRAMES + 3])
def test_codes_in_slices_decode_as_the_offline_codec_does(s2pro: Path, frames: int) -> None:
    core, codes = tiny_core(s2pro), random_codes(frames, 1)
    core.handle(c.Decode(1, codes))
    with torch.inference_mode():
        expected = tiny_model(s2pro).codec.decode(torch.from_numpy(codes.astype(np.int64))[None])[0]
    got = Results(core).run().of(1)
    assert got.shape == (frames * FRAME,)
    assert np.abs(got - expected.reshape(-1).numpy()).max() < 1e-4


def graphed_core(folder: Path) -> EngineCore:
    """Whose slices of recordings have a fixed shape."""
    return core_of(tiny_model(folder), EngineLimits(4, 8192), guarded=False, graphs=True)


@pytest.mark.parametrize("samples", [1, FRAME, SLICE_FRAMES * FRAME, 2 * SLICE_FRAMES * FRAME + 5])
@pytest.mark.parametrize("make", [tiny_core, graphed_core])
def test_a_recording_in_pieces_and_slices_encodes_as_the_offline_codec_does(
    s2pro: Path, make: MakeCore, samples: int
) -> None:
    core, recording = make(s2pro), tone(samples)
    send(core, 1, recording)
    padded = np.pad(recording, (0, -samples % FRAME))
    with torch.inference_mode():
        expected = tiny_model(s2pro).codec.encode(torch.from_numpy(padded)[None])[0]
    got = Results(core).run().of(1)
    assert got.dtype == np.int16 and (got == expected.numpy()).all()


def test_slices_of_a_fixed_shape_give_the_same_codes_one_recording_after_the_other(s2pro: Path) -> None:
    """Several slices, the last one filled up; at another rate, so that blocks of samples are no slices; after one that was abandoned."""
    recording, rate = tone(round(2.2 * GRAPH_SLICE_FRAMES * FRAME * 48000 / RATE)), 48000
    results = []
    for make in (tiny_core, graphed_core):
        core = make(s2pro)
        for job in (1, 2, 3):
            send(core, job, recording, rate)
        core.step()
        core.step()
        core.handle(c.Abandon(1))
        results.append(Results(core).run())
    assert len(results[1].pieces[2]) == 3
    for job in (2, 3):
        assert (results[0].of(job) == results[1].of(job)).all()


@given(blocks=st.lists(st.integers(0, 9), max_size=9), samples=st.integers(1, 12))
def test_regrouped_samples_are_the_same_samples(blocks: list[int], samples: int) -> None:
    whole = np.arange(sum(blocks), dtype=np.float32)
    got = list(regrouped(np.split(whole, np.cumsum(blocks)[:-1]) if blocks else [], samples))
    assert np.array_equal(np.concatenate([*got, whole[:0]]), whole)
    assert all(len(block) == samples for block in got[:-1]) and all(0 < len(block) <= samples for block in got)


@pytest.mark.gpu
def test_captured_slices_give_the_codes_of_calls(s2pro: Path) -> None:
    codec, frames = load_codec(s2pro, "cuda"), 4
    captured, called = GraphedEncoder(codec, frames, torch.device("cuda")), StreamingEncoder(codec, 1, frames)
    noise = np.random.default_rng(0).normal(0, 0.3, (5, captured.samples)).astype(np.float32)
    for _ in range(2):
        captured.reset()
        called.reset(0)
        for part in noise:
            captured.start(part)
            expected = called.push(torch.from_numpy(part)).cpu().numpy()
            assert (captured.finish() == expected).all()


def test_larger_slices_give_the_same_codes(s2pro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = tone(5 * SLICE_FRAMES * FRAME + 5)
    results = []
    for frames in (SLICE_FRAMES, 2 * SLICE_FRAMES):
        monkeypatch.setattr(jobs, "slice_frames", lambda device, frames=frames: frames)
        core = tiny_core(s2pro)
        send(core, 1, recording)
        results.append(Results(core).run())
    assert (results[0].of(1) == results[1].of(1)).all()
    assert len(results[1].pieces[1]) < len(results[0].pieces[1])


@pytest.mark.parametrize(("device", "frames"), [("cpu", SLICE_FRAMES), ("cuda", GPU_SLICE_FRAMES)])
def test_a_slice_on_a_gpu_is_larger(device: str, frames: int) -> None:
    assert jobs.slice_frames(torch.device(device)) == frames


def test_a_recording_at_another_rate_is_resampled_first(s2pro: Path) -> None:
    core, recording = tiny_core(s2pro), tone(16000)
    send(core, 1, recording, rate=16000)
    send(core, 2, resample(recording, 16000, RATE))
    results = Results(core).run()
    assert (results.of(1) == results.of(2)).all()


@pytest.mark.parametrize("rates", [(48000, 44100), (44100, 44100), (8000, 44100), (192000, 22050), (47999, 44100)])
@pytest.mark.parametrize("samples", [1, 700, 30011])
@pytest.mark.parametrize("block", [64, 5000])
def test_resampling_in_blocks_changes_no_bit(rates: tuple[int, int], samples: int, block: int) -> None:
    recording = np.random.default_rng(samples).standard_normal(samples).astype(np.float32)
    assert np.array_equal(np.concatenate(list(resampled(recording, *rates, block))), resample(recording, *rates))


def test_jobs_take_turns_and_the_encoder_starts_afresh_for_each(s2pro: Path) -> None:
    core = tiny_core(s2pro)
    for job in (1, 2):
        send(core, job, tone(3 * FRAME))
    results = Results(core).run()
    assert list(results.done) == [1, 2] and (results.of(1) == results.of(2)).all()


def test_a_recording_that_is_still_arriving_is_no_work_and_keeps_nobody_waiting(s2pro: Path) -> None:
    core = tiny_core(s2pro)
    core.handle(c.Encode(1, RATE, 2 * FRAME))
    core.handle(c.Recording(1, tone(FRAME)))
    assert not core.has_work()
    core.handle(c.Decode(2, random_codes(3, 1)))
    assert Results(core).run().of(2).shape == (3 * FRAME,)
    core.handle(c.Recording(1, tone(FRAME)))
    assert Results(core).run().of(1).shape == (10, 2)


def test_an_abandoned_job_stops_wherever_it_is(s2pro: Path) -> None:
    expected = Results(core := tiny_core(s2pro))
    send(core, 9, tone(20 * FRAME))
    codes = expected.run().of(9)
    for steps in range(0, expected.steps, 2):
        core = tiny_core(s2pro)
        send(core, 1, tone(20 * FRAME))
        send(core, 2, tone(20 * FRAME))
        for _ in range(steps):
            core.step()
        core.handle(c.Abandon(1))
        core.handle(c.Abandon(3))
        results = Results(core).run()
        assert list(results.done) == [2] and (results.of(2) == codes).all()


def test_pieces_of_a_job_that_was_abandoned_are_ignored(s2pro: Path) -> None:
    core = tiny_core(s2pro)
    core.handle(c.Encode(1, RATE, 2 * FRAME))
    core.handle(c.Abandon(1))
    core.handle(c.Recording(1, tone(2 * FRAME)))
    assert not core.has_work()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_recording_with_nan_or_infinity_is_refused_and_the_next_job_done(s2pro: Path, bad: float) -> None:
    core, recording = tiny_core(s2pro), tone(5 * FRAME)
    recording[4321] = bad
    send(core, 1, recording)
    send(core, 2, tone(FRAME))
    results = Results(core).run()
    error = results.done[1]
    assert isinstance(error, SynthesisFailed) and error.code == "bad_audio" and 1 not in results.pieces
    assert results.of(2).shape == (10, 1)


def test_a_device_without_memory_for_a_job_fails_the_job_alone(s2pro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    core = tiny_core(s2pro)
    with monkeypatch.context() as patch:
        patch.setattr(core._runner.streaming, "step", refuse)
        core.handle(c.Decode(1, random_codes(3, 1)))
        error = Results(core).run().done[1]
    assert isinstance(error, SynthesisFailed) and error.code == "out_of_memory"
    core.handle(c.Decode(2, random_codes(3, 1)))
    assert Results(core).run().of(2).shape == (3 * FRAME,)


def test_a_job_waits_for_a_newcomer_but_not_for_ever(s2pro: Path) -> None:
    core = tiny_core(s2pro)
    driver = Driver(core)
    core.handle(c.Decode(1, random_codes(200, 1)))
    heard = driver.open(Conversation("a"), "B b b", frames=100)
    sliced = []
    while len(heard.frames) < 3 * JOB_PATIENCE:
        core._clock = lambda: 0.0 if not heard.frames else len(heard.frames) * core.info.frame_s  # no lead, ever
        driver.step()
        sliced.append(bool(driver.report.pieces))
    assert not any(sliced[:JOB_PATIENCE]) and 2 <= sum(sliced) <= 3


def test_a_job_goes_on_beside_a_stream_with_lead(s2pro: Path) -> None:
    core = tiny_core(s2pro)
    driver = Driver(core)
    core._clock = lambda: 0.0
    core.handle(c.Decode(1, random_codes(200, 1)))
    heard = driver.open(Conversation("a"), "B b b", frames=100)
    while len(heard.frames) < 12:  # half a second
        driver.step()
    for _ in range(5):
        driver.step()
        assert driver.report.pieces and driver.report.events

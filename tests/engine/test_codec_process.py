"""The codec in a process of its own, and a core that uses it: nothing is said that a core without it would not say."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import codec_process
from engine import commands as c
from engine.api import Conversation, EngineLimits, SamplingParams
from engine.codec_process import CodecGone, CodecProcess
from engine.core import EngineCore
from engine.inprocess import InProcessEngine
from engine.load import core_of, threads_beside
from engine.streaming import StreamingCodec
from tests.engine.core_driver import Driver, assert_nothing_leaked, random_codes, tiny_core, tiny_model

ROWS = 4


@pytest.fixture(scope="module")
def shared(s2pro: Path) -> Iterator[CodecProcess]:
    process = CodecProcess(s2pro, ROWS, threads=1)
    process.wait()
    yield process
    process.close()


@pytest.fixture
def process(shared: CodecProcess) -> CodecProcess:
    """As new. Starting one takes two seconds, so the tests share it."""
    for row in range(ROWS):
        shared.reset(row)
    return shared


@pytest.fixture
def beside(s2pro: Path, process: CodecProcess) -> EngineCore:
    return core_of(tiny_model(s2pro), EngineLimits(ROWS, 8192), guarded=False, decoder=process)


def test_frames_of_rows_decode_as_they_do_here(s2pro: Path, process: CodecProcess) -> None:
    here = StreamingCodec(tiny_model(s2pro).codec, ROWS)
    codes = random_codes(6, 1).T  # [6, K]
    for rows in ([0, 1], [1, 3], [2]):
        part = codes[: len(rows), :, None]
        process.start(part, rows)
        expected = here.step(torch.from_numpy(part.astype(np.int64)), rows)
        assert np.array_equal(process.finish(), expected.numpy())


def test_a_reset_row_is_new_and_what_was_started_before_does_not_notice(process: CodecProcess) -> None:
    codes = random_codes(2, 2).T
    process.start(codes[:1, :, None], [0])
    process.reset(0)
    first = process.finish()
    process.start(codes[:1, :, None], [0])
    assert np.array_equal(process.finish(), first)


def test_the_end_of_the_process_is_noticed(s2pro: Path) -> None:
    process = CodecProcess(s2pro, 1, threads=1)
    process.wait()
    process._process.kill()
    with pytest.raises(CodecGone, match=r"the process that decodes frames has ended \(killed by SIGKILL\)"):
        process.start(random_codes(1, 0).T[:, :, None], [0])
        process.finish()
    process.close()
    process.close()


def test_a_codec_that_cannot_be_loaded_ends_its_process(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec_process, "_LEAVE_S", 60.0)  # a busy machine takes longer than a second to end a process
    process = CodecProcess(tmp_path, 1, threads=1)
    with pytest.raises(CodecGone, match=r"ended \(exit status 1, see stderr\)"):
        process.wait()
    assert "CodecWeightsError" in capfd.readouterr().err


def test_the_process_ends_with_whoever_started_it(s2pro: Path) -> None:
    process = CodecProcess(s2pro, 1, threads=1)
    process._socket.close()
    assert process._process.wait(timeout=180) == 0


def test_an_engine_in_a_thread_ends_it(s2pro: Path) -> None:
    process = CodecProcess(s2pro, 1, threads=1)
    process.wait()

    async def test() -> None:
        engine = InProcessEngine(core_of(tiny_model(s2pro), EngineLimits(1, 512), guarded=False, decoder=process))
        await engine.close()

    asyncio.run(test())
    assert process._process.returncode is not None


def test_a_core_says_the_same_with_it_and_without(s2pro: Path, beside: EngineCore) -> None:
    said = []
    for core in (beside, tiny_core(s2pro)):
        driver = Driver(core)
        streams = []
        for i in range(3):  # they join in mid-flight, with little credit at a time
            params = SamplingParams(seed=i, max_frames=11 if i == 2 else 2048)
            streams.append(driver.open(Conversation(f"c{i}"), "One text.", "Another.", params=params, frames=3 * i))
            driver.step()
            driver.step()
        for allowed in (7, 8, 14):
            for heard in streams:
                core.handle(c.Allow(heard.key, allowed))
            driver.run()
        said.append(streams)
        for heard in streams:
            driver.cancel(heard)
        assert_nothing_leaked(core)
    for with_it, without in zip(*said, strict=True):
        assert [frame.index for frame in with_it.frames] == [frame.index for frame in without.frames]
        assert np.array_equal(with_it.codes, without.codes)
        assert np.abs(with_it.samples - without.samples).max() < 1e-5
        assert with_it.ends == without.ends and with_it.ended == without.ended


def test_a_first_frame_is_not_kept_back_for_the_second(beside: EngineCore) -> None:
    driver = Driver(beside)
    heard = driver.open(Conversation("a"), "Hello.", frames=10)
    while not heard.frames:
        driver.step()
    assert beside._runner.sampler._frame[0] == 1, "nothing was drawn meanwhile"
    driver.cancel(heard)


def test_a_frame_is_drawn_while_the_one_before_is_decoded(beside: EngineCore) -> None:
    driver = Driver(beside)
    heard = driver.open(Conversation("a"), "Hello.", frames=10)
    while len(heard.frames) < 4:
        driver.step()
    assert beside._runner.sampler._frame[0] == 5
    driver.run()
    assert len(heard.frames) == 10
    driver.cancel(heard)


def test_who_is_cancelled_while_a_frame_is_decoded_says_nothing_more(beside: EngineCore) -> None:
    driver = Driver(beside)
    one, other = (driver.open(Conversation(name), "Hello.", frames=10) for name in "ab")
    while len(one.frames) < 4:
        driver.step()
    assert beside._decoding
    said = len(one.frames)
    driver.cancel(one)
    third = driver.open(Conversation("c"), "Hello.", frames=4)  # takes the row
    driver.run()
    assert (len(one.frames), len(other.frames), len(third.frames)) == (said, 10, 4)
    driver.cancel(other)
    driver.cancel(third)
    assert_nothing_leaked(beside)


def test_commands_do_not_wait_for_a_frame_that_takes_long(beside: EngineCore, process: CodecProcess) -> None:
    driver = Driver(beside)
    one, other = (driver.open(Conversation(name), "Hello.", frames=10) for name in "ab")
    process._process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(10):  # the first frames have been drawn, and nobody has them
            driver.step()
        assert beside._decoding.started and not one.frames and not other.frames
        driver.cancel(one)
        driver.step()
    finally:
        process._process.send_signal(signal.SIGCONT)
    driver.run()
    assert (len(one.frames), len(other.frames)) == (0, 10)
    driver.cancel(other)
    assert_nothing_leaked(beside)


@pytest.mark.parametrize(
    ("cores", "threads", "beside"), [(1, 1, 0), (2, 1, 1), (2, 2, 0), (4, 2, 1), (8, 4, 3), (64, 4, 4)]
)
def test_the_codec_gets_cores_that_nobody_else_needs(cores: int, threads: int, beside: int) -> None:
    assert threads_beside(cores, threads) == beside

"""The engine in its own process, killed and restarted; and the same engine in a thread.

What does not need a model is tried on a worker without one, which starts in a moment: tests/engine/scripted_worker.py.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import commands as c
from engine import process as process_module
from engine.api import Conversation, EngineDied, EngineLimits, Frame, SamplingParams, SpokenSegment, Voice
from engine.commands import WorkerSpec
from engine.front import PIECE_SAMPLES, EngineFront, StreamHandle
from engine.inprocess import InProcessEngine
from engine.process import MAX_FAILURES, EngineProcess, EngineUnavailable, _Backlog, _spawn
from engine.wire import BlockingPeer
from tests.engine.core_driver import tiny_core

PARAMS = SamplingParams(max_frames=8)
LIMITS = EngineLimits(max_streams=2, kv_positions=4096, threads=1)
ROOT = Path(__file__).parents[2]


def spec(folder: Path, name: str = "tiny") -> WorkerSpec:
    return WorkerSpec(folder, name, "cpu", "float32", LIMITS, None, guarded=False)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 300))


def speak(
    engine: EngineFront, conversation: Conversation, params: SamplingParams = PARAMS, credit: int = 100
) -> StreamHandle:
    stream = engine.open(conversation, Voice("none"), params, 1)
    stream.push("Hello there.")
    stream.finish()
    stream.allow(credit)
    return stream


async def codes_of(stream: StreamHandle) -> np.ndarray:
    return np.stack([event.codes async for event in stream if isinstance(event, Frame)], axis=1)


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# -- the engine itself --------------------------------------------------------------------------------------------------------------------


def test_a_killed_engine_ends_its_turn_once_and_the_next_turn_keeps_the_context(
    s2pro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A folder with code of the same names must not be taken for ours.
    (tmp_path / "engine.py").write_text("raise ImportError('not this one')")
    (tmp_path / "numpy.py").write_text("raise ImportError('not this one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(ROOT) if path == "" else path for path in sys.path])

    async def test() -> None:
        engine = await EngineProcess.start(spec(s2pro))
        history = (SpokenSegment("Before.", np.ones((10, 12), np.int16)),)
        thread = InProcessEngine(tiny_core(s2pro))
        expected = await codes_of(speak(thread, Conversation("a", history)))
        await thread.close()
        assert (await codes_of(speak(engine, Conversation("a", history))) == expected).all()
        doomed = speak(engine, Conversation("b"), SamplingParams(max_frames=2000), credit=3)
        got, errors = 0, 0
        pid = engine.pid
        assert pid is not None
        try:
            async for event in doomed:
                got += isinstance(event, Frame)
                if got == 3:
                    os.kill(pid, signal.SIGTERM)  # which means the server, not us
                    os.kill(pid, signal.SIGINT)
                    assert (await codes_of(speak(engine, Conversation("c")))).shape == (10, 8)
                    os.kill(pid, signal.SIGKILL)
        except EngineDied:
            errors += 1
        assert (got, errors) == (3, 1)
        assert not engine.ready
        again = await codes_of(speak(engine, Conversation("a", history)))  # waits for the restart
        assert (again == expected).all()
        assert engine.ready and engine.pid != pid
        pid = engine.pid
        await engine.close()
        assert pid is not None
        assert_gone(pid)

    run(test)


def test_an_engine_whose_codec_is_killed_says_so_and_comes_back(s2pro: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(spec(s2pro))
        pid = engine.pid
        (codec,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(codec), signal.SIGKILL)
        with pytest.raises(EngineDied):
            await codes_of(speak(engine, Conversation("a")))
        assert (await codes_of(speak(engine, Conversation("a")))).shape == (10, 8)
        assert pid is not None and engine.pid != pid
        await engine.close()

    run(test)
    (ended,) = [record for record in caplog.records if "ended" in record.message]
    assert ended.message == "the engine process ended: the process that decodes frames has ended (killed by SIGKILL)"


def test_a_folder_without_a_model_is_reported_in_words(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(EngineUnavailable, match=r"config\.json"):
            await EngineProcess.start(spec(tmp_path))

    run(test)


def test_a_worker_leaves_when_its_server_is_gone(s2pro: Path) -> None:
    process, ours = _spawn(spec(s2pro))
    ours.setblocking(True)
    server = BlockingPeer(ours)
    server.send(spec(s2pro))
    assert isinstance(server.receive(wait=True)[0], c.Ready)
    server.send(c.Open(1, Conversation("a"), Voice("none"), SamplingParams(), 1))
    server.send(c.Push(1, "Hello there."))
    server.send(c.Allow(1, 2000))
    assert isinstance(server.receive(wait=True)[0], c.Report)
    ours.close()  # as the kernel does for a server that was killed
    assert process.wait(180) == 0


def test_a_worker_that_hangs_leaves_when_its_server_is_gone() -> None:
    ours, theirs = socket.socketpair()
    code = "import sys, socket, threading, engine.worker as w; w.LEAVE_S = 0.0; s = socket.socket(fileno=int(sys.argv[1])); "
    code += "threading.Thread(target=w.leave_with_server, args=(s,), daemon=True).start(); "
    code += "s.send(b'up'); threading.Event().wait()"
    with ours, theirs:
        fd = theirs.fileno()
        process = subprocess.Popen([sys.executable, "-c", code, str(fd)], pass_fds=[fd], cwd=ROOT)
        theirs.close()
        assert ours.recv(2) == b"up"
        ours.send(b"bytes that nobody reads do not wake it")
        assert process.poll() is None
    assert process.wait(180) == 1


# -- in a thread --------------------------------------------------------------------------------------------------------------------------


def test_a_recording_goes_to_codes_and_back_while_a_stream_speaks(s2pro: Path) -> None:
    async def test() -> None:
        engine = InProcessEngine(tiny_core(s2pro))
        stream = speak(engine, Conversation("a"))
        samples = np.sin(np.arange(2 * PIECE_SAMPLES) / 20).astype(np.float32) * 0.3
        codes, spoken = await asyncio.gather(engine.encode(samples, 44100), codes_of(stream))
        assert codes.shape == (10, -(-samples.size // engine.info.frame_samples))
        assert spoken.shape[1] == 8
        wave = await engine.decode(codes)
        assert wave.shape == (codes.shape[1] * engine.info.frame_samples,)
        await engine.close()

    run(test)


def test_a_closed_thread_ends_what_is_open_and_what_is_opened_later(s2pro: Path) -> None:
    async def test() -> None:
        engine = InProcessEngine(tiny_core(s2pro))
        stream = speak(engine, Conversation("a"), credit=0)
        await engine.close()
        for ended in (stream, speak(engine, Conversation("b"))):
            with pytest.raises(EngineDied, match="closed"):
                await codes_of(ended)
        with pytest.raises(EngineDied):
            await engine.decode(np.zeros((10, 3), np.int16))
        await engine.close()

    run(test)


def test_a_thread_that_breaks_ends_what_is_open_and_what_is_opened_later(
    s2pro: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        core = tiny_core(s2pro)
        engine = InProcessEngine(core)
        monkeypatch.setattr(core, "step", lambda: 1 / 0)
        stream = speak(engine, Conversation("a"))
        for ended in (stream, speak(engine, Conversation("b"))):
            with pytest.raises(EngineDied, match="ZeroDivisionError"):
                await codes_of(ended)
        await engine.close()

    run(test)


# -- minding a worker ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., WorkerSpec]:
    """Workers that do as the orders say, one after the other."""
    bootstrap = process_module._BOOTSTRAP.replace("from engine.worker", "from tests.engine.scripted_worker")
    monkeypatch.setattr(process_module, "_BOOTSTRAP", bootstrap)
    monkeypatch.setattr(process_module, "FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(process_module, "CLOSE_GRACE_S", 0.2)

    def make(*orders: str) -> WorkerSpec:
        script = tmp_path / "orders"
        script.write_text("\n".join(orders))
        return spec(tmp_path, str(script))

    return make


Scripted = Callable[..., WorkerSpec]


async def frames_of(stream: StreamHandle) -> int:
    return len([event async for event in stream])


@pytest.mark.parametrize(("order", "what"), [("fail", "out of luck"), ("exit", "while it was loading")])
def test_a_worker_that_does_not_come_up_says_so_and_leaves_nothing_behind(
    scripted: Scripted, order: str, what: str
) -> None:
    async def test() -> None:
        with pytest.raises(EngineUnavailable, match=what):
            await EngineProcess.start(scripted(order))

    run(test)


def test_a_process_that_cannot_be_started_at_all_is_reported(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        monkeypatch.setattr(process_module.sys, "executable", "/no/such/python")
        with pytest.raises(EngineUnavailable, match="no process could be started"):
            await EngineProcess.start(scripted("speak"))

    run(test)


def test_a_start_that_is_given_up_leaves_no_process_behind(scripted: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    spawn = process_module._spawn

    def noting(spec: WorkerSpec) -> tuple[subprocess.Popen[bytes], socket.socket]:
        process, ours = spawn(spec)
        started.append(process)
        return process, ours

    async def test() -> None:
        monkeypatch.setattr(process_module, "_spawn", noting)
        starting = asyncio.create_task(EngineProcess.start(scripted("load")))
        while not started:
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        assert starting.cancelled() and started[0].returncode is not None

    run(test)


def test_closing_ends_streams_and_the_worker_and_what_is_opened_later(scripted: Scripted) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(scripted("speak"))
        pid = engine.pid
        assert pid is not None
        stream = engine.open(Conversation("a"), Voice("none"), PARAMS, 1)
        await engine.close()
        assert_gone(pid)
        for ended in (stream, speak(engine, Conversation("b"))):
            with pytest.raises(EngineDied, match="closing"):
                await frames_of(ended)
        with pytest.raises(EngineDied):
            await engine.encode(np.zeros(3 * PIECE_SAMPLES, np.float32), 44100)

    run(test)


def test_a_worker_that_does_not_listen_is_killed_when_the_server_closes(scripted: Scripted) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(scripted("deaf"))
        pid = engine.pid
        assert pid is not None
        await engine.close()
        assert_gone(pid)

    run(test)


def test_a_recording_waits_for_a_worker_that_does_not_listen_and_can_be_given_up(scripted: Scripted) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(scripted("deaf"))
        assert engine.worker._link is not None
        job = asyncio.create_task(engine.encode(np.zeros(100 * PIECE_SAMPLES, np.float32), 192000))
        while engine.worker._link.writable.is_set():
            await asyncio.sleep(0)
        transport = engine.worker._link.transport
        assert transport is not None and transport.get_write_buffer_size() < 3 * 4 * PIECE_SAMPLES
        job.cancel()
        await asyncio.wait([job])
        assert job.cancelled()
        await engine.close()

    run(test)


def test_a_recording_ends_with_the_worker_that_does_not_listen(scripted: Scripted) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(scripted("deaf", "speak"))
        assert engine.worker._link is not None and engine.pid is not None
        job = asyncio.create_task(engine.encode(np.zeros(100 * PIECE_SAMPLES, np.float32), 192000))
        while engine.worker._link.writable.is_set():
            await asyncio.sleep(0)
        os.kill(engine.pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            await job
        assert (await engine.decode(np.zeros((8, 3), np.int16))).shape == (3072,)
        await engine.close()

    run(test)


def test_what_is_opened_while_no_worker_is_up_is_spoken_by_the_next_one(scripted: Scripted) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(scripted("die", "speak"))
        with pytest.raises(EngineDied):
            await frames_of(speak(engine, Conversation("a")))
        given_up = speak(engine, Conversation("b"))
        given_up.cancel()
        job = asyncio.create_task(engine.decode(np.zeros((8, 3), np.int16)))
        recording = asyncio.create_task(engine.encode(np.zeros(5 * PIECE_SAMPLES, np.float32), 44100))
        assert await frames_of(speak(engine, Conversation("c"), credit=5)) == 5
        assert (await job).shape == (3072,)
        recording.cancel()
        await asyncio.wait([recording])
        await engine.close()

    run(test)


def test_a_server_that_closes_during_a_restart_leaves_no_process_behind(scripted: Scripted) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(scripted("die", "speak"))
        assert engine.worker._link is not None
        dead = engine.worker._link.process
        stream = speak(engine, Conversation("a"))
        with pytest.raises(EngineDied):
            await frames_of(stream)
        waiting = speak(engine, Conversation("b"))
        assert not engine.ready and engine.worker._restarting is not None
        await engine.close()
        assert engine.worker._restarting.cancelled() and engine.pid is None and dead.returncode is not None
        with pytest.raises(EngineDied):
            await frames_of(waiting)

    run(test)


def test_an_engine_that_dies_of_every_turn_is_restarted_ever_more_slowly(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []
    sleep = asyncio.sleep

    async def napping(seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():  # of a server that another test has left running
            return await sleep(seconds)
        if seconds != process_module._POLL_S:
            naps.append(seconds)
        return await sleep(0.0 if seconds != process_module._POLL_S else seconds)

    async def test() -> None:
        engine = await EngineProcess.start(scripted("die"))
        monkeypatch.setattr(process_module.asyncio, "sleep", napping)
        for n in range(MAX_FAILURES):
            while not engine.ready:
                await sleep(0.001)
            with pytest.raises(EngineDied):
                await frames_of(speak(engine, Conversation(str(n))))
        with pytest.raises(EngineDied, match="could not be restarted"):  # at once, not when it is up
            await frames_of(speak(engine, Conversation("late")))
        while not engine.ready:  # but it is tried
            await sleep(0.001)
        await engine.close()
        assert naps == sorted(naps) and len(set(naps)) == len(naps) == MAX_FAILURES - 1

    run(test)


def test_an_engine_that_comes_up_after_many_failures_speaks(scripted: Scripted) -> None:
    async def test() -> None:
        engine = await EngineProcess.start(scripted("die", *["exit"] * MAX_FAILURES, "fail", "speak"))
        with pytest.raises(EngineDied):
            await frames_of(speak(engine, Conversation("a")))
        with pytest.raises(EngineDied, match="could not be restarted"):  # after so many failures nobody waits
            await frames_of(speak(engine, Conversation("b")))
        while not engine.ready:
            await asyncio.sleep(0.001)
        assert await frames_of(speak(engine, Conversation("c"), credit=3)) == 3
        await engine.close()

    run(test)


def test_the_backlog_holds_what_is_open_and_no_more() -> None:
    backlog, conversation, voice = _Backlog(), Conversation("c"), Voice("v")
    for stream in range(100):
        backlog.add(c.Open(stream, conversation, voice, PARAMS, 1))
        backlog.add(c.Push(stream, "Hello."))
        if stream < 99:
            backlog.add(c.Cancel(stream))
        backlog.add(c.Prefetch(conversation, voice))
        backlog.add(c.Decode(1000 + stream, np.zeros((8, 1), np.int16)))
        backlog.add(c.Abandon(1000 + stream))
    backlog.add(c.Encode(7, 44100, 3))
    backlog.add(c.Recording(7, np.zeros(3, np.float32)))
    backlog.add(c.Finish(99))
    kinds = [type(command) for command in backlog.take()]
    assert kinds == [c.Prefetch, c.Open, c.Push, c.Finish, c.Encode, c.Recording]
    backlog.add(c.Prefetch(conversation, voice))
    backlog.add(c.Forget(conversation.id))
    assert backlog.take() == []

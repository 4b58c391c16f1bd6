"""A server of several processes: real ones, before the real mini, as an operator starts them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from engine.api import EngineLimits, ModelInfo
from realtime.handing import HandedSocket, hand
from realtime.processes import _folder, sensible_number, serve_in_processes
from realtime.settings import Settings, SettingsError
from realtime.shared import Count, SharedFolder
from tests.realtime.sockets import PATIENCE_S, PLAINLY, live, receive, say, send, to_the_end, vanish

ROOT = Path(__file__).parents[2]
PROCESSES = 3
MOST_SESSIONS = 12
UNPACED: dict[str, Any] = {"audio": {"output": {"format": "pcm_s16le"}}, "pacing": {"clock": "none"}}


@dataclass
class Served:
    """A server of its own processes."""

    process: subprocess.Popen[str]
    url: str

    @property
    def children(self) -> list[int]:
        """Ids of the processes that serve."""
        return [pid for pid in children_of(self.process.pid) if "server_process" in command_of(pid)]

    @property
    def everything(self) -> list[int]:
        """Ids of all that the server has started, itself included."""
        return [self.process.pid, *children_of(self.process.pid)]

    @property
    def folder(self) -> Path:
        """That its processes share."""
        opened = [Path(os.readlink(each)) for each in Path(f"/proc/{self.process.pid}/fd").iterdir()]
        return next(path for path in opened if path.name.startswith("parley-processes-") and path.is_dir())

    def until(self, what: Callable[[], bool]) -> None:
        """Wait for it."""
        deadline = time.monotonic() + PATIENCE_S
        while not what():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def connections_of(pid: int) -> int:
    """TCP connections that clients have with a process."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            inodes.add(os.readlink(descriptor))
        except OSError:
            continue
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[3] == "01" and f"socket:[{fields[9]}]" in inodes for fields in lines)


@contextmanager
def serving(*options: str, processes: int = 2) -> Iterator[Served]:
    command = [sys.executable, "-c", "import sys; from realtime.cli import main; sys.exit(main())", "serve", "mini"]
    command += ["--port", "0", "--processes", str(processes), "--threads", "1", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            url = next(line.partition("listening on ")[2] for line in process.stdout if "listening on" in line).strip()
            yield Served(process, url)
        finally:
            for pid in [] if process.poll() is not None else children_of(process.pid):
                os.kill(pid, signal.SIGKILL)
            process.kill()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving("--max-sessions", str(MOST_SESSIONS), processes=PROCESSES) as server:
        yield server


@contextmanager
def session(url: str, query: str = "", **options: Any) -> Iterator[tuple[ClientConnection, dict[str, Any]]]:
    with connect(live(url) + query, **PLAINLY, **options) as ws:
        yield ws, receive(ws, "session.created")


def test_one_process_is_enough_for_few_streams_and_a_small_machine() -> None:
    assert sensible_number(max_streams=8, processors=16) == 1
    assert sensible_number(max_streams=256, processors=2) == 1
    assert sensible_number(max_streams=64, processors=16) == 4
    assert sensible_number(max_streams=256, processors=16) == 12
    assert sensible_number(max_streams=1000, processors=64) == 16


def test_a_connection_that_is_handed_over_is_served_elsewhere_and_the_end_of_them_is_seen() -> None:
    ours, theirs = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener, ours, HandedSocket(fileno=theirs.detach()) as handed:
        handed.setblocking(False)
        with pytest.raises(BlockingIOError):
            handed.accept()
        with socket.create_connection(listener.getsockname()) as caller:
            accepted, _ = listener.accept()
            with accepted:
                hand(ours, accepted)
            connection, address = handed.accept()
            with connection:
                assert address == caller.getsockname()
                connection.sendall(b"Hello")
                assert caller.recv(5) == b"Hello"
        ours.close()
        with pytest.raises(ConnectionAbortedError):
            handed.accept()


def test_sessions_are_spread_over_the_processes_and_all_of_them_speak(served: Served) -> None:
    with ExitStack() as stack:
        sockets = [stack.enter_context(session(served.url))[0] for _ in range(6)]
        assert sorted(connections_of(pid) for pid in served.children) == [2, 2, 2]
        for ws in sockets:
            send(ws, "session.update", **UNPACED)
            send(ws, "text.append", text="Hello there.")
            send(ws, "turn.end")
        done = [receive(ws, "turn.done") for ws in sockets]
        assert {event["status"] for event in done} == {"completed"}
        assert all(event["audio_ms"] > 300 for event in done)


def test_limits_hold_for_all_processes_together(served: Served) -> None:
    served.until(lambda: not any(connections_of(pid) for pid in served.children))
    with ExitStack() as stack:
        for _ in range(MOST_SESSIONS):
            stack.enter_context(session(served.url))
        with pytest.raises(InvalidStatus) as refusal:
            connect(live(served.url), **PLAINLY)
        assert refusal.value.response.status_code == 429


def test_a_newcomer_to_a_full_server_comes_to_the_process_where_a_session_waits(served: Served) -> None:
    served.until(lambda: not any(connections_of(pid) for pid in served.children))
    sockets: list[ClientConnection] = []
    with ExitStack() as stack:

        def is_let_in() -> bool:
            try:
                sockets.append(stack.enter_context(session(served.url))[0])
            except InvalidStatus as refusal:
                assert refusal.response.status_code == 429
                return False
            return True

        for _ in range(MOST_SESSIONS):
            served.until(is_let_in)
        assert not is_let_in()
        shared = SharedFolder(served.folder, 0, PROCESSES)
        for ws in sockets[:PROCESSES]:  # one of each
            vanish(ws)
            served.until(lambda: shared.total(Count.WAITING) == 1)
            assert is_let_in()
            served.until(lambda: shared.total(Count.WAITING) == 0)
            assert not is_let_in()


def test_a_session_is_resumed_wherever_the_new_connection_arrives(served: Served) -> None:
    with session(served.url) as (ws, created):
        send(ws, "session.update", **UNPACED)
        assert say(ws, "This is the first one.")[1]["status"] == "completed"
        vanish(ws)
    with ExitStack() as stack:
        for turn in range(2, 5):  # a connection more each time, so that another process has its turn
            stack.enter_context(session(served.url))
            with session(served.url, f"?resume={created['resume_token']}") as (ws, again):
                assert again["resumed"] and again["session"] == created["session"]
                send(ws, "text.append", text="And another one.")
                send(ws, "turn.end")
                done = next(event for event in iter(lambda: receive(ws, "turn.done"), None) if event["n"] == turn)
                assert done["status"] == "completed"
                vanish(ws)


def test_a_secret_opens_one_session_in_whichever_process(served: Served) -> None:
    with httpx2.Client(base_url=served.url, trust_env=False) as web:
        made = web.post("/v1/sessions").json()
    query = f"?token={made['client_secret']}"
    with session(served.url), session(served.url, query) as (_, created):
        assert created["session"] == made["session"]
    with pytest.raises(InvalidStatus) as refusal:
        connect(live(served.url) + query, **PLAINLY)
    assert refusal.value.response.status_code == 401


def test_requests_of_one_named_session_meet_in_one_process(served: Served) -> None:
    """Each over a connection of its own; what the first said is context of the second, so both are in one conversation."""
    for _ in range(3):
        with session(served.url), httpx2.Client(base_url=served.url, trust_env=False, timeout=PATIENCE_S) as web:
            body = {"model": "mini", "input": "Hello there.", "voice": "alloy", "response_format": "wav"}
            answer = web.post("/s/kitchen/v1/audio/speech", json=body)
            assert answer.status_code == 200 and len(answer.content) > 10_000


def test_a_process_that_dies_takes_only_its_own_sessions_along_and_is_replaced(served: Served) -> None:
    before = set(served.children)
    with ExitStack() as stack:
        sockets = {stack.enter_context(session(served.url))[0] for _ in range(PROCESSES)}
        victim = min(before)
        os.kill(victim, signal.SIGKILL)
        for ws in list(sockets):
            try:
                assert say(ws, "Are you still there?")[1]["status"] == "completed"
            except ConnectionClosed:
                sockets.remove(ws)
        assert len(sockets) == PROCESSES - 1
        served.until(lambda: len(served.children) == PROCESSES and victim not in served.children)
        newcomer = max(set(served.children) - before)

        def reached() -> bool:
            with session(served.url):
                return connections_of(newcomer) > 0

        served.until(reached)
    with session(served.url) as (ws, _):
        assert say(ws, "Hello again.")[1]["status"] == "completed"


def test_a_signal_lets_turns_be_spoken_in_all_processes_and_leaves_nothing_behind() -> None:
    with serving() as server, ExitStack() as stack:
        made = server.folder
        assert made.is_dir()
        sockets = [stack.enter_context(session(server.url))[0] for _ in range(2)]
        pids = server.everything
        assert len(pids) >= 2 + 2
        for ws in sockets:
            send(ws, "session.update", **UNPACED)
            send(ws, "text.append", text="This will be spoken, whatever comes.")
        for ws in sockets:
            receive(ws, "turn.started")
        server.process.send_signal(signal.SIGTERM)
        for ws in sockets:
            assert receive(ws, "session.closing")["reason"] == "restart"
        with pytest.raises(InvalidStatus) as refusal:
            connect(live(server.url), **PLAINLY)
        assert refusal.value.response.status_code == 503 and "Retry-After" in refusal.value.response.headers
        for ws in sockets:
            send(ws, "turn.end")
            assert receive(ws, "turn.done")["status"] == "completed"
            assert to_the_end(ws)[1] == 1012
        assert server.process.wait(PATIENCE_S) == 0
        server.until(lambda: not any(is_there(pid) for pid in pids))
        assert not made.exists()


def test_nothing_outlives_a_first_process_that_is_killed() -> None:
    with serving() as server:
        pids = server.everything
        left = server.folder
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(PATIENCE_S)
        server.until(lambda: not any(is_there(pid) for pid in pids))
    with _folder() as folder:  # as the next server makes it
        assert folder.is_dir() and not left.exists()
        with _folder() as other:
            assert folder.is_dir() and other != folder, "that of one that lives stays"
    assert not folder.exists()


def test_servers_that_begin_at_the_same_time_leave_each_other_their_folders() -> None:
    together = threading.Barrier(8, timeout=PATIENCE_S)

    def begin(_: int) -> bool:
        together.wait()
        with _folder() as folder:
            together.wait()  # all have looked at what the others may have left
            return folder.is_dir()

    with ThreadPoolExecutor(together.parties) as servers:
        assert all(servers.map(begin, range(50 * together.parties)))


def test_the_folder_lies_where_a_path_has_room_for_sockets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("long" * 20)))
    with _folder() as folder:
        assert folder.parent == Path("/tmp")


class Worker:
    """In the place of an EngineWorker. Unrealistic: its model speaks a script that there is not, and nothing is ever said."""

    info = ModelInfo("scripted", 22050, 4, 2, 60.0, scripts=("Nobodysh",))
    limits = EngineLimits(max_streams=4)

    def serve(self, deliver: Any, fail: Any) -> None:
        """Nothing comes."""


def test_what_a_process_refuses_to_serve_is_told_by_the_first_one() -> None:
    @asynccontextmanager
    async def worker() -> AsyncIterator[Any]:
        yield Worker()

    told: list[str] = []
    with pytest.raises(SettingsError, match="Nobodysh"):
        anyio.run(partial(serve_in_processes, Settings(port=0), worker, 2, listening=told.append))
    assert told == []


def test_a_signal_between_the_end_of_a_process_and_the_next_ends_the_server() -> None:
    with serving() as server:
        victim = server.children[0]
        os.kill(victim, signal.SIGKILL)
        server.until(lambda: victim not in server.everything)  # noted; the next one begins 0.4 s later
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0


def test_a_setting_that_no_process_can_serve_with_is_told_by_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from realtime.cli import main; sys.exit(main())", "serve", "mini"]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run(
            [*command, "--port", port, "--processes", "2"], capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S
        )
    assert ended.returncode == 1 and f"port {port}" in ended.stderr
    assert ended.stdout == ""

"""Many turns at once through the engine that serves: real prompts, real sampling, the guard on.

Knows cores, their rows, and worker processes that share a list of turns. Does not know what is measured. On a CPU several processes of
one thread each are used, because threads of one step wait for each other spinning; on a GPU one process makes big batches.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess, parent_process
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from types import TracebackType

import numpy as np
import torch

from engine import commands as c
from engine.api import (
    Codes,
    Conversation,
    EngineLimits,
    Frame,
    ModelInfo,
    Samples,
    SamplingParams,
    SegmentEnd,
    SpokenSegment,
    Voice,
)
from engine.core import EngineCore
from engine.heads import FILE as ALIGNMENT
from engine.load import Loaded, core_of, load_model
from engine.resample import resample

NO_VOICE = Voice("none")
_POSITIONS = 900  # of KV a row: a reference of 10 s, a first turn and a second one, with some to spare


class SpeakerLost(Exception):
    """A process that speaks has ended; the text is one line, and what it had to say about it was printed."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One turn to speak."""

    segments: tuple[str, ...]  # as the server would push them
    voice: Voice = NO_VOICE
    history: tuple[SpokenSegment, ...] = ()
    seed: int = 0

    def digest(self, params: SamplingParams) -> str:
        """Equal for equal requests."""
        hashed = hashlib.sha256(repr((self.segments, self.voice.id, self.seed, params)).encode())
        for text, codes in [(r.text, r.codes) for r in self.voice.references] + [
            (s.text, s.codes) for s in self.history
        ]:
            hashed.update(repr((text, codes.shape)).encode() + codes.tobytes())
        return hashed.hexdigest()[:24]


@dataclass(frozen=True, slots=True, eq=False)
class Spoken:
    """What the model made of a request."""

    samples: Samples  # [n] at the model's rate
    codes: Codes  # [K, frames]
    ends: tuple[int, ...]  # frame after the last one of each segment
    cut: str | None = None  # why the engine, not the model, ended a segment, or why it gave up

    def part(self, segment: int, frame_samples: int) -> Samples:
        """Samples of one segment."""
        start = self.ends[segment - 1] if segment else 0
        return self.samples[start * frame_samples : self.ends[segment] * frame_samples]


@dataclass(frozen=True, slots=True)
class Setting:
    """Which checkpoint speaks, where and how."""

    folder: Path
    name: str
    device: str  # of torch, or "auto"
    params: SamplingParams
    workers: int  # processes; 0 speaks in this one
    rows: int  # turns at once in each
    quantize: str | None = None  # format of the slow stack's matrices, as engine.quantize has it
    dtype: str = "auto"  # of the AR stacks, as engine.load has it
    plain: bool = False  # on a GPU: no graphs, no compiled blocks, and kernels of our own only for quantised matrices

    def load(self) -> Loaded:
        """The checkpoint. Raises what `load_model` raises."""
        slow_way = {"fused": False, "kernels": False} if self.plain else {}
        loaded = load_model(self.folder, self.name, self.device, self.dtype, None, quantize=self.quantize, **slow_way)
        # Nobody asks here where in its text a turn is, and a GPU's steps are only graphs where nobody does.
        return replace(loaded, heads=None)


class Rows:
    """The rows of one core, each of them speaking one request after the other."""

    def __init__(self, core: EngineCore, rows: int, params: SamplingParams) -> None:
        self._core, self._rows, self._params = core, rows, params
        self._speaking: dict[int, _Turn] = {}  # by the stream's key, which is the request's number

    @property
    def free(self) -> int:
        """How many more may begin."""
        return self._rows - len(self._speaking)

    @property
    def busy(self) -> bool:
        """Whether stepping does anything."""
        return bool(self._speaking)

    def begin(self, key: int, request: Request) -> None:
        """Start a turn; `step` will hand it back under `key`."""
        core, params = self._core, replace(self._params, seed=request.seed)
        core.handle(c.Open(key, Conversation(f"evaluate-{key}", request.history), request.voice, params, 0))
        for text in request.segments:
            core.handle(c.Push(key, text))
        core.handle(c.Finish(key))
        core.handle(c.Allow(key, params.max_frames))
        self._speaking[key] = _Turn(len(request.segments))

    def step(self) -> Iterator[tuple[int, Spoken]]:
        """One step; yields the turns that it finished."""
        for key, event in self._core.step().events:
            turn = self._speaking[key]
            if isinstance(event, Frame):
                turn.frames.append(event)
            elif isinstance(event, SegmentEnd):
                turn.ends.append(len(turn.frames))
                turn.cut = turn.cut or event.cut
            elif isinstance(event, c.Ended):
                del self._speaking[key]
                self._core.handle(c.Forget(f"evaluate-{key}"))
                yield key, turn.spoken(event, self._core.info)

    def close(self) -> None:
        """No other call follows."""
        self._core.close()


@dataclass(slots=True)
class _Turn:
    """What has come of a turn so far."""

    segments: int
    frames: list[Frame] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    cut: str | None = None

    def spoken(self, ended: c.Ended, info: ModelInfo) -> Spoken:
        ends = (*self.ends, *[len(self.frames)] * (self.segments - len(self.ends)))
        cut = self.cut or (str(ended.error) if ended.error else None)
        if not self.frames:
            return Spoken(np.zeros(0, np.float32), np.zeros((info.codebooks, 0), np.int16), ends, cut)
        samples = np.concatenate([frame.samples for frame in self.frames])
        return Spoken(samples, np.stack([frame.codes for frame in self.frames], 1), ends, cut)


class Mouth:
    """Speaks lists of requests, each distinct one once. Use it as a context manager: it may own processes."""

    def __init__(self, setting: Setting, keep: Path | None = None, show: Callable[[str], None] | None = None) -> None:
        """keep: folder in which turns are kept for later runs. show: told what is going on, a line at a time. Raises OSError."""
        self._setting, self._keep = setting, keep
        self._show = show or (lambda line: None)
        self._made: dict[str, Spoken] = {}
        self._encoded: dict[tuple[int, bytes], Codes] = {}
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
        loaded = setting.load()
        self.info = loaded.info
        self._print = _fingerprint(setting, loaded.info)
        self._codec = loaded.codec.to(loaded.model.device)  # whole recordings at once
        self._rows: Rows | None = None
        self._pool: _Pool | None = None
        if setting.workers > 1 and loaded.model.device.type == "cpu":
            self._pool = _Pool(setting)
        else:
            self._rows = _rows_of(loaded, setting)

    def __enter__(self) -> Mouth:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.close()
        if self._rows is not None:
            self._rows.close()

    @property
    def sample_rate(self) -> int:
        """Hz, of what is spoken."""
        return self.info.sample_rate

    @torch.inference_mode()
    def encode(self, samples: Samples, sample_rate: int) -> Codes:
        """Codes [K, T] of a recording at any rate, computed once."""
        key = sample_rate, hashlib.sha256(samples.tobytes()).digest()
        if key in self._encoded:
            return self._encoded[key]
        wide = torch.from_numpy(resample(samples, sample_rate, self.sample_rate))[None]
        device = next(self._codec.parameters()).device
        self._encoded[key] = self._codec.encode(wide.to(device))[0].cpu().numpy().astype(np.int16)
        return self._encoded[key]

    def speak(self, requests: Sequence[Request], what: str = "turns") -> list[Spoken]:
        """All requests, in order. Raises SpeakerLost, and OSError where they cannot be kept."""
        digests = [request.digest(self._setting.params) for request in requests]
        left = {digest: request for digest, request in zip(digests, requests, strict=True) if not self._known(digest)}
        keys = list(left)
        if keys:
            self._show(f"{what}: {len(keys)} turns")
        # Long ones first: what is left over at the end is then short.
        order = sorted(range(len(keys)), key=lambda i: -sum(map(len, left[keys[i]].segments)))
        for count, (number, spoken) in enumerate(self._new([(i, left[keys[i]]) for i in order]), 1):
            self._made[keys[number]] = spoken
            self._save(keys[number], spoken)
            if count % 50 == 0:
                self._show(f"{what}: {count} of {len(keys)}")
        return [self._made[digest] for digest in digests]

    def _new(self, numbered: list[tuple[int, Request]]) -> Iterator[tuple[int, Spoken]]:
        if self._pool is not None:
            yield from self._pool.speak(numbered)
            return
        assert self._rows is not None, "without processes there are rows"
        waiting = deque(numbered)
        while waiting or self._rows.busy:
            while waiting and self._rows.free:
                self._rows.begin(*waiting.popleft())
            yield from self._rows.step()

    def _known(self, digest: str) -> bool:
        if digest not in self._made and self._keep is not None and (path := self._path(digest)).exists():
            with np.load(path) as kept:
                samples = kept["samples"].astype(np.float32) / 32767
                self._made[digest] = Spoken(
                    samples, kept["codes"], tuple(kept["ends"].tolist()), str(kept["cut"]) or None
                )
        return digest in self._made

    def _save(self, digest: str, spoken: Spoken) -> None:
        if self._keep is None:
            return
        samples = np.round(np.clip(spoken.samples, -1, 1) * 32767).astype(np.int16)
        path = self._path(digest)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(
                file, samples=samples, codes=spoken.codes, ends=np.array(spoken.ends, np.int64), cut=spoken.cut or ""
            )
        partial.replace(path)

    def _path(self, digest: str) -> Path:
        assert self._keep is not None
        return self._keep / f"{self._print}-{digest}.npz"


def _rows_of(loaded: Loaded, setting: Setting) -> Rows:
    positions = min(_POSITIONS * setting.rows, 1 << 17)
    limits = EngineLimits(max_streams=setting.rows, kv_positions=max(positions, 4096))
    core = core_of(loaded, limits, graphs=False if setting.plain else None)
    return Rows(core, setting.rows, setting.params)


def _fingerprint(setting: Setting, info: ModelInfo) -> str:
    """Another checkpoint, or another arithmetic, has another one. Which of its heads follow the text changes nothing that is said."""
    hashed = hashlib.sha256(repr((info.device, info.dtype, setting.plain)).encode())
    for path in sorted(setting.folder.glob("*")):
        if path.suffix in (".json", ".safetensors") and path.name != ALIGNMENT:
            hashed.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return hashed.hexdigest()[:12]


class _Pool:
    """Processes of one thread each that take requests from one queue as their rows become free."""

    def __init__(self, setting: Setting) -> None:
        context = multiprocessing.get_context("spawn")
        self._inbox: Queue[tuple[int, Request]] = context.Queue()
        self._outbox: Queue[tuple[int, Spoken]] = context.Queue()
        self._processes: list[BaseProcess] = [
            context.Process(target=_serve, args=(setting, self._inbox, self._outbox), daemon=True)
            for _ in range(setting.workers)
        ]
        # Ctrl-C reaches all processes of a terminal. It is for this one, which ends the others: they inherit that it is blocked.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for process in self._processes:
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def speak(self, numbered: Sequence[tuple[int, Request]]) -> Iterator[tuple[int, Spoken]]:
        for item in numbered:
            self._inbox.put(item)
        for _ in numbered:
            yield self._next()

    def _next(self) -> tuple[int, Spoken]:
        while True:
            try:
                return self._outbox.get(timeout=5.0)
            except Empty:
                lost = [process.exitcode for process in self._processes if process.exitcode is not None]
                if lost:
                    raise SpeakerLost(f"a speaking process ended, exit code {lost[0]}; see above") from None

    def close(self) -> None:
        """End the processes, whatever they do."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        for queue in (self._inbox, self._outbox):
            queue.cancel_join_thread()
            queue.close()


def _serve(setting: Setting, inbox: Queue[tuple[int, Request]], outbox: Queue[tuple[int, Spoken]]) -> None:
    """A process of the pool. Whoever started it ends it."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    sys.stdout = sys.stderr  # standard output belongs to the table
    rows = _rows_of(setting.load(), setting)
    while True:
        while rows.free:
            try:
                rows.begin(*inbox.get(block=not rows.busy))
            except Empty:
                break
        for made in rows.step():
            outbox.put(made)


def _leave_with_parent() -> None:
    """End this process with the one that started it, however that ended: a queue would be waited at for ever."""
    parent = parent_process()
    assert parent is not None, "a process of the pool was started by another"
    wait([parent.sentinel])
    os._exit(1)

"""What `python -m engine.bench` measures: the pieces of a step, prefill, the roof, and streams that are listened to.

Knows how to set up and time each. Does not know the command line, nor clocks: `now` gives monotonic seconds.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count

import numpy as np
import torch

from engine import commands as c
from engine.api import Codes, Conversation, EngineLimits, Frame, Reference, SamplingParams, SpokenSegment, Voice
from engine.core import EngineCore
from engine.frame_graphs import Captured
from engine.heads import Head
from engine.kv import CachedSequence, Columns
from engine.load import Loaded
from engine.model import Hidden
from engine.roof import copy_bandwidth, step_bytes
from engine.runner import FrameDrawn, Runner
from engine.streaming import StreamingCodec

Now = Callable[[], float]

TEXT_CHARS = 90  # of a turn: 6 s where ends are forced
LEAD_FRAMES = 43  # that a listener lets the engine be ahead: two seconds
WARM_UP_S = 8.0  # streams begin within, or all of them would prefill in the same step
TURNS = 4  # of a conversation; then the stream begins another
GAP_S = 0.5  # between a stream's turns


@dataclass(frozen=True, slots=True)
class Setting:
    """How a load is made."""

    streams: int
    prefix: int = 300  # positions of a voice
    history: int = (
        350  # mean positions of text and speech behind it; of each stream between a third and five thirds of it
    )
    seed: int = 0


def sync(device: torch.device) -> None:
    """Wait for everything that was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device, now: Now) -> float:
    """Bytes a second of a large copy, read and written counted both."""

    def done() -> float:
        sync(device)
        return now()

    return copy_bandwidth(device, 1 << (32 if device.type == "cuda" else 26), done)


def frame_bytes(loaded: Loaded, positions: int) -> dict[str, int]:
    """See `engine.roof.step_bytes`."""
    return step_bytes(loaded.model, loaded.codec.config.codebook_size, positions)


class Steps:
    """Rows that decode, frame after frame, without prompts or listeners. Their keys and values are zeros: time does not see them."""

    def __init__(self, loaded: Loaded, setting: Setting, graphs: bool, heads: Sequence[Head] = ()) -> None:
        rng = random.Random(setting.seed)
        lengths = [
            setting.prefix + max(1, round(setting.history * rng.uniform(1 / 3, 5 / 3))) for _ in range(setting.streams)
        ]
        self.positions = sum(lengths)
        pages = sum(-(-(length + 400) // 32) + 2 for length in lengths)
        limits = EngineLimits(max_streams=setting.streams, kv_positions=32 * pages)
        self.runner = Runner(loaded.model, loaded.codec, limits, heads=heads, graphs=graphs)
        self._loaded, self._graphs = loaded, graphs
        self.device = loaded.model.device
        self.rows = list(range(setting.streams))
        codebooks = loaded.model.config.num_codebooks
        self._sequences = []
        for row, length in enumerate(lengths):
            sequence = CachedSequence(self.runner.pool, codebooks)
            sequence.extend(np.zeros((codebooks + 1, length), np.int64))
            self._sequences.append(sequence)
            self.runner.open_row(row, SamplingParams(seed=row), 0)
        self._columns: list[Columns] = [np.zeros((codebooks + 1, 1), np.int64) for _ in lengths]

    def slow(self) -> Hidden:
        """One slow step."""
        for sequence, column in zip(self._sequences, self._columns, strict=True):
            sequence.extend(column)
        return self.runner.decode(self._sequences)

    def draw(self, hidden: Hidden) -> Codes:
        """Draws and fast loop. Returns codes [B, K]."""
        drawn = self.runner.draw([hidden], self.rows)
        codes = []
        for row, out in enumerate(drawn):
            if isinstance(out, FrameDrawn):
                self._columns[row] = out.column
            codes.append(self._columns[row][1:, 0])
        return np.stack(codes).astype(np.int16)

    def codec(self, codes: Codes) -> None:
        """The codec's frame."""
        self.runner.decoder.start(codes, self.rows)
        self.runner.decoder.finish()

    def sampling(self) -> Callable[[], object]:
        """All draws of a frame from logits that do not change, without the fast stack between them."""
        config, device, dtype = self._loaded.model.config, self.device, self._loaded.model.dtype
        rows, noise = torch.tensor(self.rows, device=device), torch.Generator(device).manual_seed(0)
        semantic, residual = (
            torch.randn(len(self.rows), n, device=device, generator=noise).to(dtype)
            for n in (config.n_semantic + 1, self._loaded.codec.config.codebook_size)
        )
        sampler = self.runner.sampler

        @torch.inference_mode()
        def draws() -> torch.Tensor:
            frame = sampler.frame(rows)
            column = frame.semantic(semantic)
            for codebook in range(1, config.num_codebooks):
                frame.codebook(codebook, residual)
            frame.commit(column)
            return column

        return Captured(draws, device, None) if self._graphs else draws

    def pieces(self, steps: int, now: Now) -> dict[str, list[float]]:
        """Milliseconds of each piece, waiting for the device after each; `all` without, but for the waits that a step has."""
        out: dict[str, list[float]] = {name: [] for name in ("slow", "draw", "codec", "sampling", "all")}
        sampling = self.sampling()
        for number in range(-3, steps):
            ends = [now()]
            hidden = self.slow()
            sync(self.device)
            ends.append(now())
            codes = self.draw(hidden)
            ends.append(now())
            self.codec(codes)
            ends.append(now())
            sampling()
            sync(self.device)
            ends.append(now())
            self.codec(self.draw(self.slow()))
            ends.append(now())
            if number >= 0:
                for name, begun, end in zip(out, ends, ends[1:], strict=False):
                    out[name].append(1000 * (end - begun))
        return out


def prefills(loaded: Loaded, lengths: Sequence[int], repeats: int, now: Now) -> Iterator[tuple[int, list[float]]]:
    """(positions, milliseconds of each repeat), for one row at a time."""
    limits = EngineLimits(max_streams=1, kv_positions=max(lengths) + 64)
    runner, codebooks = Runner(loaded.model, loaded.codec, limits), loaded.model.config.num_codebooks
    for length in lengths:
        times = []
        for _ in range(repeats + 1):
            sequence = CachedSequence(runner.pool, codebooks)
            sequence.extend(np.zeros((codebooks + 1, length), np.int64))
            sync(loaded.model.device)
            begun = now()
            runner.prefill(sequence, length)
            sync(loaded.model.device)
            times.append(1000 * (now() - begun))
            sequence.truncate(0)
        yield length, times[1:]


def codec_in_tf32(loaded: Loaded, rows: int, frames: int, now: Now) -> dict[str, float]:
    """The codec's step in float32 and with TF32 products: milliseconds a frame (median) and dB between the two waves."""
    device, sizes = loaded.model.device, loaded.codec.config
    noise = torch.Generator(device).manual_seed(0)
    codes = torch.randint(sizes.codebook_size, (rows, sizes.n_codebooks, frames), device=device, generator=noise)
    index, waves, out = torch.arange(rows, device=device), [], {}
    before = torch.get_float32_matmul_precision()
    for name, precision in (("float32", "highest"), ("tf32", "high")):
        torch.set_float32_matmul_precision(precision)
        codec, times, wave = StreamingCodec(loaded.codec, rows), [], []
        for frame in range(frames):
            sync(device)
            begun = now()
            wave.append(codec.step(codes[:, :, frame : frame + 1], index))
            sync(device)
            times.append(1000 * (now() - begun))
        out[f"{name}_ms"] = sorted(times)[len(times) // 2]
        waves.append(torch.cat(wave, 1))
    torch.set_float32_matmul_precision(before)
    error = (waves[1] - waves[0]).square().mean()
    out["snr_db"] = float(10 * torch.log10(waves[0].square().mean() / error.clamp(min=1e-20)))
    return out


@dataclass(slots=True)
class Heard:
    """A turn as its listener hears it."""

    stream: int
    new: bool  # the first of its conversation, whose history must be prefilled
    pushed_at: float
    measured: bool
    first_at: float | None = None
    frames: int = 0
    short_s: float = 0.0  # how late the latest frame was
    allowed: int = 0


@dataclass(slots=True)
class Served:
    """What listeners heard after the warm-up."""

    first_ms: list[float] = field(default_factory=list)  # from the text to the first frame, where only the text is new
    first_new_ms: list[float] = field(default_factory=list)  # where the history is new, too, and only the voice known
    short_ms: list[float] = field(default_factory=list)  # of each turn
    step_ms: list[float] = field(default_factory=list)
    frames: int = 0
    elapsed_s: float = 0.0
    failed: list[str] = field(default_factory=list)


class Serving:
    """Streams in real time: each speaks a turn, pauses, speaks the next; in one thread with the engine's core."""

    def __init__(self, core: EngineCore, setting: Setting, entries: int, now: Now) -> None:
        """entries: that every codebook has."""
        self._core, self._setting, self._now = core, setting, now
        self._rng = random.Random(setting.seed)
        frames = max(1, setting.prefix - 100)  # some 100 positions are the template and the transcript
        self._codes = np.random.default_rng(setting.seed)
        self._most = entries
        self._voice = Voice("bench", (Reference("A voice.", self._random_codes(frames)),))
        self._keys = count(1)
        self._turns: dict[int, Heard] = {}
        self._numbers = [0] * setting.streams
        self._histories: list[tuple[SpokenSegment, ...]] = [self._history() for _ in range(setting.streams)]
        self.served = Served()

    def _random_codes(self, frames: int) -> Codes:
        return self._codes.integers(0, self._most, (self._core.info.codebooks, frames)).astype(np.int16)

    def _history(self) -> tuple[SpokenSegment, ...]:
        positions = round(self._setting.history * self._rng.uniform(1 / 3, 5 / 3))
        return (SpokenSegment(self._text(), self._random_codes(positions)),) if positions else ()

    def _text(self) -> str:
        words: list[str] = []
        while sum(map(len, words)) + len(words) < TEXT_CHARS:
            words.append("".join(self._rng.choice("abcdefghijklmnoprstuvwy") for _ in range(self._rng.randint(2, 8))))
        return " ".join(words) + "."

    def run(self, seconds: float, warm_up_s: float = WARM_UP_S) -> Served:
        """Measure for `seconds`, after a warm-up in which streams begin one after the other."""
        begun = self._now()
        waiting = [(begun + self._rng.uniform(0, warm_up_s), n) for n in range(self._setting.streams)]
        heapq.heapify(waiting)
        measured_from = begun + warm_up_s
        while (now := self._now()) < measured_from + seconds:
            while waiting and waiting[0][0] <= now:
                self._begin(heapq.heappop(waiting)[1], now, now >= measured_from)
            self._credit(now)
            if not self._core.has_work():
                continue
            report = self._core.step()
            after = self._now()
            if now >= measured_from:
                self.served.step_ms.append(1000 * (after - now))
            for key, event in report.events:
                if isinstance(event, Frame):
                    self._hear(self._turns[key], after, after >= measured_from)
                elif isinstance(event, c.Ended):
                    turn = self._turns.pop(key)
                    self._end(turn, event)
                    heapq.heappush(waiting, (after + GAP_S, turn.stream))
        self.served.elapsed_s = seconds
        for turn in self._turns.values():
            self._end(turn, c.Ended())
        return self.served

    def _begin(self, stream: int, now: float, measured: bool) -> None:
        key, number = next(self._keys), self._numbers[stream]
        self._numbers[stream] += 1
        conversation = Conversation(f"{stream}-{number // TURNS}", self._histories[stream])
        self._core.handle(c.Open(key, conversation, self._voice, SamplingParams(seed=stream), number))
        self._core.handle(c.Push(key, self._text()))
        self._core.handle(c.Finish(key))
        self._turns[key] = Heard(stream, number % TURNS == 0, now, measured)

    def _credit(self, now: float) -> None:
        for key, turn in self._turns.items():
            played = 0 if turn.first_at is None else int((now - turn.first_at) / self._core.info.frame_s)
            if played + LEAD_FRAMES > turn.allowed:
                turn.allowed = played + LEAD_FRAMES
                self._core.handle(c.Allow(key, turn.allowed))

    def _hear(self, turn: Heard, now: float, measured: bool) -> None:
        if turn.first_at is None:
            turn.first_at = now
            if turn.measured:
                into = self.served.first_new_ms if turn.new else self.served.first_ms
                into.append(1000 * (now - turn.pushed_at))
        due = turn.first_at + turn.frames * self._core.info.frame_s
        turn.short_s = max(turn.short_s, now - due)
        turn.frames += 1
        self.served.frames += measured

    def _end(self, turn: Heard, ended: c.Ended) -> None:
        if ended.error is not None:
            self.served.failed.append(str(ended.error))
        elif turn.measured and turn.first_at is not None:
            self.served.short_ms.append(1000 * turn.short_s)

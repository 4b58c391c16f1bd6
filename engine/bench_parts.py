"""What `python -m engine.bench` measures piece by piece: a step for some rows, prefill, the codec, and how many streams a step carries.

Knows how to set up and time each, and the roof. Streams that are listened to are in `engine.bench_serving`. Does not know the command line,
nor clocks: `now` gives monotonic seconds.
"""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from engine.api import Codes, EngineLimits, SamplingParams
from engine.bench_serving import Now, Setting
from engine.captured import Captured
from engine.graphed_decoder import PRECISION, frame_step, products_in
from engine.heads import Head
from engine.kv import PAGE, CachedSequence, Columns
from engine.load import Loaded
from engine.model import Hidden
from engine.pace import MARGIN
from engine.roof import SERVED_BYTES, copy_bandwidth, step_bytes
from engine.runner import FrameDrawn, Runner
from engine.streaming import StreamingCodec

FRAMES = 20  # measured of each number of streams while it is looked for
FIRST_FRAMES = 3  # not measured


def sync(device: torch.device) -> None:
    """Wait for everything that was launched."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device, now: Now, little: bool = False) -> float:
    """Bytes a second of a large copy, read and written counted both. little: a smaller one, where memory is short.

    Leaves no trace in a device's peaks of memory.
    """

    def done() -> float:
        sync(device)
        return now()

    if device.type != "cuda":
        return copy_bandwidth(device, 1 << 26, done)
    found = copy_bandwidth(device, SERVED_BYTES if little else 1 << 32, done)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return found


def frame_bytes(loaded: Loaded, positions: int) -> dict[str, int]:
    """See `engine.roof.step_bytes`."""
    return step_bytes(loaded.model, loaded.codec.config.codebook_size, positions)


def lengths_of(setting: Setting) -> list[int]:
    """Positions of each stream."""
    rng = random.Random(setting.seed)
    return [setting.prefix + max(1, round(setting.history * rng.uniform(1 / 3, 5 / 3))) for _ in range(setting.streams)]


def pool_of(lengths: Sequence[int], frames: int) -> int:
    """Positions of a cache that rows of these lengths fit into, and so many frames of each."""
    return PAGE * sum(-(-(length + frames) // PAGE) + 1 for length in lengths)


class Steps:
    """Rows that decode, frame after frame, without prompts or listeners. Their keys and values are zeros: time does not see them."""

    def __init__(self, loaded: Loaded, limits: EngineLimits, graphs: bool, heads: Sequence[Head] = ()) -> None:
        """limits: rows, and positions of the cache. No row decodes until it is held."""
        self.runner = Runner(loaded.model, loaded.codec, limits, heads=heads, graphs=graphs)
        self._loaded, self._graphs = loaded, graphs
        self.most = limits.max_streams
        self.device = loaded.model.device
        self.rows: list[int] = []
        self._lengths: list[int] = []
        self._sequences: list[CachedSequence] = []
        self._columns: list[Columns] = []
        self._decoding = False

    @property
    def positions(self) -> int:
        """Of all rows that decode, when they began."""
        return sum(self._lengths[: len(self.rows)])

    def hold(self, lengths: Sequence[int]) -> None:
        """Rows of so many positions decode from now on, and nothing else."""
        self._finish()
        for sequence in self._sequences:
            sequence.truncate(0)
        self._lengths, self._sequences = list(lengths), []
        codebooks = self._loaded.model.config.num_codebooks
        for row, length in enumerate(lengths):
            sequence = CachedSequence(self.runner.pool, codebooks)
            sequence.extend(np.zeros((codebooks + 1, length), np.int64))
            self._sequences.append(sequence)
            self.runner.open_row(row, SamplingParams(seed=row), 0)
        self._columns = [np.zeros((codebooks + 1, 1), np.int64) for _ in lengths]
        self.rows = list(range(len(lengths)))

    def only(self, rows: int) -> None:
        """Of those that are held the first ones decode, from where they began."""
        self._finish()
        for sequence, length in zip(self._sequences, self._lengths, strict=True):
            sequence.truncate(length)
        self.rows = list(range(rows))

    def slow(self) -> Hidden:
        """One slow step."""
        speaking = self._sequences[: len(self.rows)]
        for sequence, column in zip(speaking, self._columns, strict=False):
            sequence.extend(column)
        return self.runner.decode(speaking)

    def draw(self, hidden: Hidden, ahead: bool = False) -> Codes:
        """Draws and fast loop. Returns codes [B, K]. ahead: the next slow step may begin meanwhile."""
        drawn = self.runner.draw([hidden], self.rows, self._sequences[: len(self.rows)] if ahead else ())
        codes = []
        for row, out in enumerate(drawn):
            if isinstance(out, FrameDrawn):
                self._columns[row] = out.column
            codes.append(self._columns[row][1:, 0])
        return np.stack(codes).astype(np.int16)

    def codec(self, codes: Codes) -> None:
        """The codec's frame."""
        self._finish()
        self.runner.decoder.start(codes[:, :, None], self.rows)
        self.runner.decoder.finish()

    def frame(self) -> None:
        """A whole step as the core makes it: where the codec works beside, the frame before is waited for when this one is drawn."""
        codes = self.draw(self.slow(), ahead=True)
        self._finish()
        self.runner.decoder.start(codes[:, :, None], self.rows)
        self._decoding = True
        if not self.runner.decoder.beside:
            self._finish()

    def held(self, count: int, now: Now) -> list[float]:
        """Milliseconds of each frame where the codec takes several of one row at once, as for a listener who has enough to play: of so many
        frames together, divided by their number. Empty where it does not."""
        several, times = self.runner.decoder.several, list[float]()
        if several == 1 or len(self.rows) > 1:
            return times
        for number in range(-1, -(-count // several)):
            begun, codes = now(), list[Codes]()
            for _ in range(several):
                codes.append(self.draw(self.slow(), ahead=True))
                self._finish()
            self.runner.decoder.start(np.stack(codes, axis=2), self.rows)
            self._decoding = True
            took = 1000 * (now() - begun) / several
            if number >= 0:
                times.append(took)
        return times

    def _finish(self) -> None:
        if self._decoding:
            self.runner.decoder.finish()
            self._decoding = False

    def frames(self, count: int, now: Now) -> list[float]:
        """Milliseconds of each frame."""
        times = []
        for number in range(-FIRST_FRAMES, count):
            begun = now()
            self.frame()
            took = 1000 * (now() - begun)
            if number >= 0:
                times.append(took)
        return times

    def sampling(self) -> Callable[[], object]:
        """All draws of a frame from logits that do not change, without the fast stack between them; in kernels where steps draw so."""
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

        @torch.inference_mode()
        def by_kernels() -> torch.Tensor:
            from engine.sampling_triton import KernelDraws, Tokens  # only here: they need Triton

            tokens = Tokens(config.semantic_begin, config.im_end, config.codebook_size)
            frame = KernelDraws(sampler, rows, tokens, self._loaded.model.fast_embeddings.weight)
            frame.semantic(semantic)
            for codebook in range(1, config.num_codebooks):
                frame.codebook(codebook, residual)
            return frame.frame

        function = by_kernels if sampler.kernels else draws
        return Captured(function, device) if self._graphs else function

    def pieces(self, steps: int, now: Now) -> dict[str, list[float]]:
        """Milliseconds of each piece, waiting for the device after each; `all` without, but for the waits that a step has. Where the codec
        takes several frames at once, `held` is `all` with that."""
        out: dict[str, list[float]] = {name: [] for name in ("slow", "draw", "codec", "sampling")}
        sampling = self.sampling()
        for number in range(-FIRST_FRAMES, steps):
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
            if number >= 0:
                for name, begun, end in zip(out, ends, ends[1:], strict=False):
                    out[name].append(1000 * (end - begun))
        out["all"] = self.frames(steps, now)
        held = self.held(steps, now)
        return out | {"held": held} if held else out


@dataclass(frozen=True, slots=True)
class Carried:
    """How many streams of one length a step carries."""

    positions: int  # of each
    streams: int  # 0: not one
    bound: str  # what keeps one more out: "time", "memory" or "rows"
    ms: list[float]  # of its frames


def carried(steps: Steps, positions: int, frame_s: float, now: Now) -> Carried:
    """Look for the most rows of `positions` each with which 19 of 20 frames take less than nine tenths of `frame_s`.

    Found to 3 %. steps: with as many rows, and as large a cache, as there may be.
    """
    room = steps.runner.pool.pages // (pool_of([positions], FRAMES + FIRST_FRAMES) // PAGE)
    most, bound = min(steps.most, room), "memory" if room < steps.most else "rows"
    steps.hold([positions] * most)
    good: tuple[int, list[float]] = (0, [])
    least, beyond = 0, most + 1
    trial = most
    while beyond - least > max(1, least // 32):
        steps.only(trial)
        times = steps.frames(FRAMES, now)
        if sorted(times)[math.ceil(0.95 * FRAMES) - 1] <= 1000 * (1 - MARGIN) * frame_s:
            least, good = trial, (trial, times)
        else:
            beyond, bound = trial, "time"
        trial = (least + beyond) // 2
    return Carried(positions, good[0], bound, good[1])


def prefills(
    loaded: Loaded, lengths: Sequence[int], repeats: int, now: Now, graphs: bool = False
) -> Iterator[tuple[int, list[float]]]:
    """(positions, milliseconds of the first of its length and of each repeat), for one row at a time."""
    limits = EngineLimits(max_streams=1, kv_positions=max(lengths) + 64)
    runner = Runner(loaded.model, loaded.codec, limits, graphs=graphs)
    codebooks = loaded.model.config.num_codebooks
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
        yield length, times


def codec_in_tf32(loaded: Loaded, rows: int, frames: int, now: Now) -> dict[str, float]:
    """The codec's step in float32, with TF32 products and, on a GPU that has them, in kernels; the last two in graphs, as they serve.

    Milliseconds a frame (median), and dB between the wave and that of float32; `snr_db` is of the last way.
    """
    device, sizes = loaded.model.device, loaded.codec.config
    noise = torch.Generator(device).manual_seed(0)
    codes = torch.randint(sizes.codebook_size, (rows, sizes.n_codebooks, frames), device=device, generator=noise)
    index, waves, out = torch.arange(rows, device=device), [], {}
    for name, precision in (("float32", "highest"), ("tf32", PRECISION), ("kernels", PRECISION)):
        codec, times, wave = StreamingCodec(loaded.codec, rows, device=device), [], []
        step, one = frame_step(codec, device, name == "kernels", [(rows, 1)]), codes[:, :, :1].clone()
        if name == "kernels" and step == codec.step:
            continue
        with products_in(precision), torch.inference_mode():
            captured = Captured(partial(step, one, index), device if name != "float32" else torch.device("cpu"))
            for row in range(rows):
                codec.reset(row)  # of what it was warmed up with
            for frame in range(frames):
                one.copy_(codes[:, :, frame : frame + 1])
                sync(device)
                begun = now()
                out_of = captured()
                sync(device)
                times.append(1000 * (now() - begun))
                wave.append(out_of.clone())
        out[f"{name}_ms"] = sorted(times)[len(times) // 2]
        waves.append(torch.cat(wave, 1))
        if name != "float32":
            error = (waves[-1] - waves[0]).square().mean()
            out["snr_db"] = float(10 * torch.log10(waves[0].square().mean() / error.clamp(min=1e-20)))
            out[f"{name}_db"] = out["snr_db"]
        del codec, step, captured
        gc.collect()
    return out

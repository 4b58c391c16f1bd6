"""The codec's frames as graphs of fixed shapes, beside the step that draws the next frame.

Knows buckets of rows, the stream of its own, how many frames of a row go into a call, and with what precision products are made. Does not
know whose frames they are. Rows too many compute on a row of the codec that is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from math import prod

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.api import Samples
from engine.captured import Captured, GraphMemory
from engine.streaming import StreamingCodec

KERNELS = True  # the codec's frame in kernels of our own where there is a GPU with Triton, and a codec that they fit
# Of float32 products on a GPU where there are no such kernels, in graphs alone: factors of 10 bits (TF32), sums in float32, and what rows
# remember stays float32. 256 rows would take most of a frame otherwise: 1.7 T operations. Codes are not concerned: they come from the
# encoder, which runs as it always did.
PRECISION = "high"
# Frames of one row that go into one call where nobody waits for the first of them, the most first: one frame holds the step beside it up
# for 0.8 ms on an H200, eight for 1.0. Four, as listeners who have enough ask for so many. None: each by itself.
SEVERAL: tuple[int, ...] = (8, 4)


class GraphedDecoder:
    """A `FrameDecoder` that runs a graph for each number of rows; on a GPU in a stream of its own, while the next frame is drawn."""

    def __init__(
        self,
        codec: StreamingCodec,
        sizes: Sequence[int],
        spare_row: int,
        device: torch.device,
        kernels: bool | None = None,
    ) -> None:
        """spare_row: of the codec. kernels: None: as KERNELS says."""
        self._codec, self._spare = codec, spare_row
        self.beside = device.type == "cuda"
        memory = GraphMemory.of(device)
        self._stream = None if memory is None else memory.stream
        self._decoded = torch.cuda.Event() if self.beside else None  # type: ignore[no-untyped-call]
        self.several = max(SEVERAL, default=1)
        self._counts = [*sorted(SEVERAL, reverse=True), 1]
        shapes = [*((size, 1) for size in sizes), *((1, frames) for frames in SEVERAL)]
        self._index = {size: torch.full((size,), spare_row, device=device) for size in sizes}
        self._codes = {
            (size, frames): torch.zeros(size, codec.codebooks, frames, dtype=torch.int64, device=device)
            for size, frames in shapes
        }
        self._frame = frame_step(codec, device, KERNELS if kernels is None else kernels, shapes)
        with products_in(PRECISION):  # the largest first, as in FrameGraphs
            self._steps = {
                shape: Captured(self._of(*shape), device, memory) for shape in sorted(shapes, key=prod)[::-1]
            }
        self._sizes = sorted(sizes)
        self._wave = torch.zeros(max(*sizes, self.several) * codec.frame_samples, pin_memory=self.beside)
        self._started: list[Tensor] = []  # in it, of each graph that runs: [B, T * frame_samples]
        self._wanted = 0  # rows of them
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def _of(self, size: int, frames: int) -> Callable[[], Tensor]:
        return lambda: self._frame(self._codes[size, frames], self._index[size])

    @torch.inference_mode()
    def start(self, codes: npt.NDArray[np.int16], rows: Sequence[int]) -> None:
        """See FrameDecoder."""
        size = next(size for size in self._sizes if size >= len(rows))
        padded = np.zeros((size, *codes.shape[1:]), np.int64)
        padded[: len(rows)] = codes
        self._started, room, left = [], self._room(size * codes.shape[2]), torch.from_numpy(padded)
        with torch.cuda.stream(self._stream):
            if (size, codes.shape[2]) not in self._steps:
                left = left.to(self._index[size].device)  # or each copy would wait for the graph before it
            self._index[size].copy_(torch.tensor([*rows, *[self._spare] * (size - len(rows))]))
            while left.shape[2]:
                frames = next(n for n in self._counts if n <= left.shape[2] and (size, n) in self._steps)
                now, left = left[:, :, :frames], left[:, :, frames:]
                self._codes[size, frames].copy_(now)
                wave = self._steps[size, frames]()
                self._started.append(room[: wave.numel()].view_as(wave))
                self._started[-1].copy_(wave, non_blocking=True)
                room = room[wave.numel() :]
            if self._decoded is not None:
                self._decoded.record()
        self._wanted = len(rows)

    def _room(self, frames: int) -> Tensor:
        """For so many frames' samples, where a device may write them while the host goes on."""
        if frames * self._codec.frame_samples > len(self._wave):
            self._wave = self._wave.new_zeros(frames * self._codec.frame_samples, pin_memory=self.beside)
        return self._wave

    def is_done(self) -> bool:
        """See FrameDecoder."""
        return self._decoded is None or bool(self._decoded.query())  # type: ignore[no-untyped-call]

    def finish(self) -> Samples:
        """See FrameDecoder."""
        if self._decoded is not None:
            self._decoded.synchronize()
        return np.concatenate([wave[: self._wanted].numpy() for wave in self._started], axis=1)

    def reset(self, row: int) -> None:
        """See FrameDecoder."""
        with torch.cuda.stream(self._stream):
            self._codec.reset(row)

    def close(self) -> None:
        """See FrameDecoder."""


def frame_step(
    codec: StreamingCodec, device: torch.device, kernels: bool = True, shapes: Sequence[tuple[int, int]] = ()
) -> Callable[[Tensor, Tensor], Tensor]:
    """The codec's step for rows that a tensor names; in kernels where they can be had and are wanted, compiled for (rows, frames)."""
    if not kernels or device.type != "cuda" or find_spec("triton") is None:
        return codec.step
    from engine.codec_kernels import KernelDecoder, fits  # only here: they need Triton

    if not fits(codec):
        return codec.step
    decoder = KernelDecoder(codec)
    decoder.prepare(shapes)
    return decoder.step


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """A graph keeps what it was captured with."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)

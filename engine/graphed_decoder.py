"""The codec's frame as graphs of fixed shapes, beside the step that draws the next frame.

Knows buckets of rows, the stream of its own, and with what precision a frame's products are made. Does not know whose frames they are.
Rows too many compute on a row of the codec that is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

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
        self._index = {size: torch.full((size,), spare_row, device=device) for size in sizes}
        self._codes = {size: torch.zeros(size, codec.codebooks, 1, dtype=torch.int64, device=device) for size in sizes}
        self._frame = frame_step(codec, device, KERNELS if kernels is None else kernels, sizes)
        with products_in(PRECISION):
            steps = {size: Captured(self._of(size), device, memory) for size in reversed(sizes)}  # as in FrameGraphs
        self._steps = {size: steps[size] for size in sizes}
        self._wave = torch.zeros(max(sizes), codec.frame_samples, pin_memory=self.beside)
        self._wanted = 0
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def _of(self, size: int) -> Callable[[], Tensor]:
        return lambda: self._frame(self._codes[size], self._index[size])

    @torch.inference_mode()
    def start(self, codes: npt.NDArray[np.int16], rows: Sequence[int]) -> None:
        """See FrameDecoder."""
        size = next(size for size in self._steps if size >= len(rows))
        padded = np.zeros((size, codes.shape[1], 1), np.int64)
        padded[: len(rows), :, 0] = codes
        with torch.cuda.stream(self._stream):
            self._codes[size].copy_(torch.from_numpy(padded))
            self._index[size].copy_(torch.tensor([*rows, *[self._spare] * (size - len(rows))]))
            self._wave[:size].copy_(self._steps[size](), non_blocking=True)
            if self._decoded is not None:
                self._decoded.record()
        self._wanted = len(rows)

    def finish(self) -> Samples:
        """See FrameDecoder."""
        if self._decoded is not None:
            self._decoded.synchronize()
        samples: Samples = self._wave[: self._wanted].numpy().copy()
        return samples

    def reset(self, row: int) -> None:
        """See FrameDecoder."""
        with torch.cuda.stream(self._stream):
            self._codec.reset(row)

    def close(self) -> None:
        """See FrameDecoder."""


def frame_step(
    codec: StreamingCodec, device: torch.device, kernels: bool = True, sizes: Sequence[int] = ()
) -> Callable[[Tensor, Tensor], Tensor]:
    """The codec's step for one frame of rows that a tensor names; in kernels where they can be had and are wanted, compiled for `sizes`."""
    if not kernels or device.type != "cuda" or find_spec("triton") is None:
        return codec.step
    from engine.codec_kernels import KernelDecoder, fits  # only here: they need Triton

    if not fits(codec):
        return codec.step
    decoder = KernelDecoder(codec)
    decoder.prepare(sizes)
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

"""Recordings to codes in slices of one length, each a CUDA graph: a host takes longer to launch a slice's operations than a GPU to do them.

Knows one slice's buffers, and that nobody need wait for a slice before the next one is made ready. Does not know where recordings come
from, or whom a slice delays. The arithmetic is `engine.streaming.StreamingEncoder`'s, float32 throughout.
"""

from __future__ import annotations

import torch
from torch import Tensor

from engine.api import Codes, Samples
from engine.captured import Captured
from engine.codec import Codec
from engine.streaming import StreamingEncoder


class GraphedEncoder:
    """One recording at a time: `reset`, then `start` and `finish` for each slice of it. On a GPU `start` only queues the work."""

    def __init__(self, codec: Codec, frames: int, device: torch.device) -> None:
        """frames: of a slice. Captures it now, which takes some tenths of a second."""
        self._encoder = StreamingEncoder(codec, chunk_frames=frames, device=device)
        self._frame_samples, pinned = codec.frame_samples, device.type == "cuda"
        self.samples = frames * codec.frame_samples  # of a slice
        self._samples = torch.zeros(1, self.samples, device=device)
        self._host = torch.zeros(1, self.samples, pin_memory=pinned)
        self._codes = torch.zeros(codec.codebooks, frames, dtype=torch.int16, pin_memory=pinned)
        self._done = torch.cuda.Event() if pinned else None  # type: ignore[no-untyped-call]
        self._wanted = 0  # frames
        self._step = Captured(self._encode, device)

    def reset(self) -> None:
        """Begin a recording. What was started and not finished is of no interest any more."""
        self._encoder.reset(0)

    @torch.inference_mode()
    def start(self, samples: Samples) -> None:
        """Begin the next slice: float32, `self.samples` of them; the last slice of a recording may be shorter, and is filled with zeros."""
        self._wait()  # what was copied from the host may be overwritten
        host = self._host[0].numpy()
        host[: len(samples)] = samples
        host[len(samples) :] = 0
        self._samples.copy_(self._host, non_blocking=True)
        self._codes.copy_(self._step(), non_blocking=True)
        if self._done is not None:
            self._done.record()
        self._wanted = -(-len(samples) // self._frame_samples)

    def finish(self) -> Codes:
        """Codes [K, T] of what was started, waiting for them. A frame of which only a part was given counts."""
        self._wait()
        codes: Codes = self._codes[:, : self._wanted].numpy().copy()
        return codes

    def _wait(self) -> None:
        if self._done is not None:
            self._done.synchronize()

    @torch.inference_mode()
    def _encode(self) -> Tensor:
        return self._encoder.step(self._samples, [0])[0].to(torch.int16)

"""Recordings to codes and codes to samples, beside speaking streams.

Knows how to do a long job in slices, so that encoding a minute of reference never makes a stream stutter, and takes recordings and gives
results in pieces, so that no command waits behind a large message. Does not know who asked. One job at a time, first come first served:
they share the device with speech and would only slow each other down.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from engine.api import Codes, Samples, SynthesisFailed
from engine.codec import Codec
from engine.commands import Abandon, Decode, Encode, Recording, Report
from engine.graphed_encoder import GraphedEncoder
from engine.resample import ZERO_CROSSINGS, resample
from engine.streaming import StreamingCodec, StreamingEncoder

SLICE_FRAMES = 8  # a slice is about as much work as one step of a few streams
# A GPU takes as long to be told what to do with 8 frames of a recording, some 850 launches, as with 64: 41 slices for 15 s, or 6.
GPU_SLICE_FRAMES = 64
# As a graph a slice takes as long as its work, some 0.15 ms a frame, and delays a step by that; the last one is filled up, half of it on
# average. Shorter ones would be launches again: none takes less than 2 ms.
GRAPH_SLICE_FRAMES = 32

Slices = Iterator[Codes | Samples | None]


@dataclass(slots=True)
class _Arriving:
    """A recording of which more is to come."""

    samples: Samples
    sample_rate: int
    filled: int = 0
    finite: bool = True  # so far


def slice_frames(device: torch.device) -> int:
    """Of a recording that is encoded on this device, in one slice."""
    return SLICE_FRAMES if device.type == "cpu" else GPU_SLICE_FRAMES


class Jobs:
    """A queue of encode and decode jobs. Falsy while there is nothing to do."""

    def __init__(self, codec: Codec, decoder: StreamingCodec, row: int, graphs: bool = False) -> None:
        """decoder, row: where to decode; the row is ours alone. graphs: slices of recordings have a fixed shape, captured now on a GPU."""
        self._codec = codec
        self._device = decoder.device  # the codec itself may lie elsewhere
        self._decoder = decoder
        self._row = row
        self._encoder: StreamingEncoder | None = None  # made when first needed: it copies the codec's weights
        self._graphed = GraphedEncoder(codec, GRAPH_SLICE_FRAMES, self._device) if graphs else None
        self._arriving: dict[int, _Arriving] = {}
        self._queue: deque[tuple[int, Slices]] = deque()  # the first one is in hand

    def __bool__(self) -> bool:
        return bool(self._queue)

    def handle(self, command: Encode | Recording | Decode | Abandon) -> None:
        """Take a job, or a piece of one. What belongs to a job that is over is ignored: messages cross."""
        match command:
            case Encode(job, sample_rate, samples):
                self._arriving[job] = _Arriving(np.empty(samples, np.float32), sample_rate)
            case Recording(job, samples):
                if (arriving := self._arriving.get(job)) is not None:
                    self._take(job, arriving, samples)
            case Decode(job, codes):
                self._queue.append((job, self._decode(codes)))
            case Abandon(job):
                self._arriving.pop(job, None)
                self._queue = deque(entry for entry in self._queue if entry[0] != job)

    def step(self, report: Report) -> None:
        """Do one slice of the job in hand and report what it gave."""
        if not self._queue:
            return
        job, slices = self._queue[0]
        try:
            piece = next(slices)
        except StopIteration:
            self._queue.popleft()
            report.done[job] = None
        except SynthesisFailed as error:
            self._queue.popleft()
            report.done[job] = error
        except torch.OutOfMemoryError as error:  # speech has its memory from the start, so it need not suffer
            self._queue.popleft()
            report.done[job] = SynthesisFailed("out_of_memory", str(error))
        else:
            if piece is not None:
                report.pieces.append((job, piece))

    def _take(self, job: int, arriving: _Arriving, samples: Samples) -> None:
        end = arriving.filled + samples.size
        arriving.samples[arriving.filled : end] = samples
        arriving.filled = end
        arriving.finite = arriving.finite and bool(np.isfinite(samples).all())
        if end == arriving.samples.size:
            del self._arriving[job]
            self._queue.append((job, self._encode(arriving)))

    def _encode(self, recording: _Arriving) -> Slices:
        if not recording.finite:
            raise SynthesisFailed("bad_audio", "the recording holds NaN or infinity")
        if self._graphed is not None:
            yield from self._encode_beside(self._graphed, recording)
            return
        if self._encoder is None:
            self._encoder = StreamingEncoder(self._codec, 1, slice_frames(self._device), self._device)
            yield None
        encoder = self._encoder
        encoder.reset(0)
        slice_samples = slice_frames(self._device) * self._codec.frame_samples
        for block in resampled(recording.samples, recording.sample_rate, self._codec.sample_rate, slice_samples):
            yield None
            for start in range(0, len(block), slice_samples):
                yield _codes(encoder.push(torch.from_numpy(block[start : start + slice_samples])))
        yield _codes(encoder.finish())

    def _encode_beside(self, encoder: GraphedEncoder, recording: _Arriving) -> Slices:
        """While the device encodes a slice, the host resamples the next one, and steps go on."""
        encoder.reset()
        blocks = resampled(recording.samples, recording.sample_rate, self._codec.sample_rate, encoder.samples)
        begun = False
        for samples in regrouped(blocks, encoder.samples):
            codes = encoder.finish() if begun else None
            encoder.start(samples)
            begun = True
            yield codes
        if begun:
            yield encoder.finish()

    def _decode(self, codes: Codes) -> Slices:
        self._decoder.reset(self._row)
        for start in range(0, codes.shape[1], SLICE_FRAMES):
            piece = torch.from_numpy(codes[None, :, start : start + SLICE_FRAMES].astype(np.int64))
            samples: Samples = self._decoder.step(piece.to(self._device), [self._row])[0].cpu().numpy()
            yield samples


def resampled(samples: Samples, from_hz: int, to_hz: int, block: int) -> Iterator[Samples]:
    """`resample(samples, from_hz, to_hz)` in blocks of some `block` samples, each computed when it is asked for; not a bit different."""
    common = math.gcd(from_hz, to_hz)
    step, phases = from_hz // common, to_hz // common  # `step` samples become `phases`, and the next ones the same way
    periods = max(1, block // phases)
    seen = 2 * math.ceil(ZERO_CROSSINGS * max(1.0, from_hz / to_hz)) + 2  # more samples on either side than matter
    margin = -(-seen // step)  # in periods
    total = -(-len(samples) * phases // step)
    for first in range(0, -(-total // phases), periods):
        start = max(0, first - margin)
        part = resample(samples[start * step : (first + periods + margin) * step], from_hz, to_hz)
        skipped = (first - start) * phases
        yield part[skipped : skipped + min(periods * phases, total - first * phases)]


def regrouped(blocks: Iterable[Samples], samples: int) -> Iterator[Samples]:
    """The same samples in blocks of so many, of which only the last may have fewer; none is empty."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate((rest, block))
        while len(rest) >= samples:
            yield rest[:samples]
            rest = rest[samples:]
    if len(rest):
        yield rest


def _codes(codes: torch.Tensor) -> Codes | None:
    """As a piece of a result; a push that completed no frame gave none."""
    return codes.cpu().numpy().astype(np.int16) if codes.shape[1] else None

"""The codec for live streams: a few frames at a time, for any of its rows, in constant memory.

Knows the chain of layers and how calls go through it; the arithmetic is in streaming_layers.py, what rows remember in
streaming_state.py. Gives what the offline codec gives for the whole clip, within 1e-5, however a clip is cut into calls
and whatever rows share a call. Does not know turns, voices or devices other than its own.

All state is allocated once. For CUDA graphs: with `rows` a tensor a call has fixed shapes for a given [B, T], waits for
nothing on the host and depends on no value in Python.
Everything computes in float32, whatever the type of the codec's parameters: the reference's codes need it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine import codec as offline
from engine.streaming_layers import (
    CausalProduct,
    ConvNext,
    Snake,
    SnakeProduct,
    Transformer,
    alpha_of,
    bias_of,
    child,
    conv_taps,
    residuals,
    there,
    transposed_taps,
)
from engine.streaming_state import Layout, RowStates, Step
from engine.traced import Traced

# A longer call runs as several of this many frames. It bounds the workspace of a call and what the attention rings
# hold beyond their window.
CHUNK_FRAMES = 8

# Samples that one row of the last convolution's product gives. It has one output channel: 1 would copy every input 7
# times for it, more would multiply mostly zeros.
OUTPUT_BLOCK = 8


class Layer(Protocol):
    """One part of a chain."""

    def run(self, step: Step, x: Tensor) -> Tensor:
        """x [B * T, C], which may be overwritten -> [B * T', C']."""


class StreamingCodec:
    """Codes -> samples for several independent streams, one a row.

    Holds copies of the weights that it needs, so the codec may be dropped. One thread at a time.
    """

    def __init__(self, codec: offline.Codec, rows: int, solo: bool = False, device: torch.device | None = None) -> None:
        """solo: make a graph of the step of one frame of one row (`engine.traced`), which takes some tenths of a second.

        device: None: the codec's. To another one the codec's parts go one at a time, so it holds little more than what is made here.
        """
        self.device = device_of(codec) if device is None else device
        stages, layout = [there(stage, self.device) for stage in codec.quantizer.stages()], Layout()
        self.rows, self.codebooks, self.frame_samples = rows, codec.codebooks, codec.frame_samples
        self._table = torch.cat([_stage_outputs(stage) for stage in stages])  # [sum of codebook sizes, latent_dim]
        sizes = torch.tensor([[stage.codebook.num_embeddings] for stage in stages], device=self._table.device)
        self._last_code, self._no_code = sizes - 1, torch.zeros_like(sizes)  # [K, 1]
        self._first_row = sizes.cumsum(0) - sizes  # [K, 1], of each codebook in the table
        post = Transformer(layout, codec.quantizer.post_module, 1, CHUNK_FRAMES, self.device)
        self.parts: dict[str, list[Layer]] = {  # in order; the names are for whoever measures them
            "post_module": [post],
            "upsample": list(_upsample(layout, codec.quantizer, self.device)),
            **_decoder(layout, codec, self.device),
        }
        self._layout = layout
        self._states = RowStates(rows, layout, self._table.device)
        self._solo: Traced | None = None
        if solo:
            state = [tensor.clone() for tensor in self._states.of(0)]
            codes = torch.zeros(1, self.codebooks, 1, dtype=torch.int64)
            self._zero = torch.zeros(1, dtype=torch.int64)
            self._solo = Traced(self._decode_one, codes, self._zero, *state)

    @torch.inference_mode()
    def step(self, codes: Tensor, rows: Sequence[int] | Tensor) -> Tensor:
        """Decode the next T frames of each named row; the others keep their state.

        codes: int64 [B, K, T], left as it is; an index beyond its codebook counts as the last one. rows: B distinct row
        numbers. Ascending neighbours in a sequence are cheapest: their state is used where it lies. An int64 tensor on
        the codec's device is taken unchecked, because looking would wait for the device.
        Returns float32 [B, T * frame_samples] in [-1, 1]. Raises ValueError, changing nothing, for what does not fit.
        """
        if codes.dim() != 3 or codes.shape[:2] != (len(rows), self.codebooks) or not codes.shape[2]:
            raise ValueError(
                f"codes {list(codes.shape)} are not [{len(rows)} rows, {self.codebooks} codebooks, frames]"
            )
        if self._solo is not None and not isinstance(rows, Tensor) and codes.shape[::2] == (1, 1):
            self._states.check(rows)
            (wave,) = self._solo(codes, self._zero, *self._states.of(rows[0]))
            return wave
        parts = [self._decode(chunk, rows) for chunk in torch.split(codes, CHUNK_FRAMES, dim=2)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @property
    def layout(self) -> Layout:
        """Where what a row remembers lies."""
        return self._layout

    @property
    def states(self) -> RowStates:
        """What the rows remember."""
        return self._states

    @property
    def entries(self) -> tuple[Tensor, Tensor, Tensor]:
        """What entries add, float32 [sum of codebook sizes, latent_dim]; of each codebook the first row there, and the last index; [K]."""
        return self._table, self._first_row.flatten(), self._last_code.flatten()

    def embed(self, codes: Tensor) -> Tensor:
        """codes [B, K, T] -> summed stage vectors [B * T, latent_dim]."""
        index = torch.clamp(codes, self._no_code, self._last_code).add_(self._first_row)
        return F.embedding(index, self._table).sum(1).view(-1, self._table.shape[1])

    def _decode(self, codes: Tensor, rows: Sequence[int] | Tensor) -> Tensor:
        step = self._states.open(rows, codes.shape[2])
        wave = self._run(step, codes)
        self._states.close(step)
        return wave

    def _decode_one(self, codes: Tensor, row: Tensor, history: Tensor, frames: Tensor, *rings: Tensor) -> tuple[Tensor]:
        """A frame of one row whose state is given. row: int64 [1], always 0."""
        step = Step(1, 1, self._layout.places(history), rings, frames, row, 0)
        wave = self._run(step, codes)
        frames.add_(1)
        return (wave,)

    def _run(self, step: Step, codes: Tensor) -> Tensor:
        x = self.embed(codes)
        for layers in self.parts.values():
            for layer in layers:
                x = layer.run(step, x)
        return x.view(step.batch, -1).tanh_()

    def reset(self, row: int) -> None:
        """Start a new stream in `row`. Raises IndexError."""
        self._states.reset(row)

    def state_bytes(self) -> int:
        """What the rows remember, allocated at the start."""
        return self._states.nbytes()


class StreamingEncoder:
    """Samples -> codes for several independent recordings, one a row, however long they are.

    The offline encoder's numbers, but always in true float32: its convolutions use TF32 on a GPU unless told otherwise,
    which changes codes. Shares the quantiser's small weights with a codec on the same device and copies the others.
    """

    def __init__(
        self,
        codec: offline.Codec,
        rows: int = 1,
        chunk_frames: int = CHUNK_FRAMES,
        device: torch.device | None = None,
    ) -> None:
        """chunk_frames: as CHUNK_FRAMES. Where a call costs much however short it is, more are faster. device: as StreamingCodec's."""
        layout, device = Layout(), device_of(codec) if device is None else device
        self.rows, self.codebooks, self.frame_samples = rows, codec.codebooks, codec.frame_samples
        self._chunk_samples = chunk_frames * codec.frame_samples
        self._layers = list(_encoder(layout, codec, chunk_frames, device))
        self._stages = [there(stage, device) for stage in codec.quantizer.stages()]
        self._states = RowStates(rows, layout, device)
        self._waiting = [torch.zeros(0, device=device) for _ in range(rows)]  # samples short of a frame

    @torch.inference_mode()
    def step(self, samples: Tensor, rows: Sequence[int] | Tensor) -> Tensor:
        """Encode the next T frames of each named row; the others keep their state.

        samples: float32 [B, T * frame_samples] at the codec's rate; rows as in StreamingCodec.step.
        Returns codes int64 [B, K, T]. Raises ValueError, changing nothing, for what does not fit.
        """
        whole = samples.dim() == 2 and samples.shape[1] and samples.shape[1] % self.frame_samples == 0
        if not whole or len(samples) != len(rows):
            raise ValueError(
                f"samples {list(samples.shape)} are not {len(rows)} rows of frames of {self.frame_samples}"
            )
        chunks = torch.split(samples, self._chunk_samples, dim=1)
        return torch.cat([self._encode(chunk, rows) for chunk in chunks], dim=2)

    def push(self, samples: Tensor, row: int = 0) -> Tensor:
        """Encode any number of further samples float32 [n] of one row; what is short of a frame waits for the next call.

        Returns codes int64 [K, T], T >= 0.
        """
        waiting = torch.cat((self._waiting[row], samples.to(self._waiting[row])))
        ready = len(waiting) - len(waiting) % self.frame_samples
        self._waiting[row] = waiting[ready:].clone()
        if not ready:
            return torch.zeros(self.codebooks, 0, dtype=torch.int64, device=waiting.device)
        return self.step(waiting[None, :ready], [row])[0]

    def finish(self, row: int = 0) -> Tensor:
        """Encode what waits, filled up to a frame with zeros, and make the row new. Returns codes int64 [K, 0 or 1]."""
        codes = self.push(torch.zeros(-len(self._waiting[row]) % self.frame_samples), row)
        self.reset(row)
        return codes

    def reset(self, row: int) -> None:
        """Start a new recording in `row`. Raises IndexError."""
        self._states.reset(row)
        self._waiting[row] = self._waiting[row][:0].clone()

    def state_bytes(self) -> int:
        """What the rows remember, allocated at the start; samples short of a frame not counted."""
        return self._states.nbytes()

    def _encode(self, samples: Tensor, rows: Sequence[int] | Tensor) -> Tensor:
        step = self._states.open(rows, samples.shape[1] // self.frame_samples)
        x = samples.reshape(-1, 1)
        for layer in self._layers:
            x = layer.run(step, x)
        self._states.close(step)
        latents = x.view(step.batch, step.frames, -1).transpose(1, 2)
        return offline.quantize(self._stages, latents).codes


def device_of(codec: offline.Codec) -> torch.device:
    """Where its weights are."""
    return next(codec.parameters()).device


def _stage_outputs(stage: offline.VectorQuantizer) -> Tensor:
    """What each entry of a stage's codebook adds, float32 [size, latent_dim]."""
    rows, up = stage.codebook.weight.detach().double(), stage.out_proj.weight.detach().double()
    return (rows @ up[:, :, 0].t() + bias_of(stage.out_proj)).float()


def _upsample(layout: Layout, quantizer: offline.Quantizer, device: torch.device) -> Iterator[Layer]:
    for i in range(len(quantizer.upsample)):
        pair = child(quantizer.upsample, i, nn.Sequential, device)
        conv = child(pair, 0, offline.CausalTransposedConv)
        bias = bias_of(conv.conv).repeat(conv.stride)
        yield CausalProduct(layout, transposed_taps(conv), bias, stride_out=conv.stride, few_rows=True)
        yield ConvNext(layout, child(pair, 1, offline.ConvNextBlock))


def _decoder(layout: Layout, codec: offline.Codec, device: torch.device) -> dict[str, list[Layer]]:
    """The decoder by blocks, its last tanh left out."""
    model, blocks = codec.decoder.model, len(codec.config.decoder_rates)
    nested = [child(model, 1 + i, offline.DecoderBlock).block for i in range(blocks)]
    alphas = [alpha_of(child(block, 0, offline.Snake, device)) for block in nested]
    alphas.append(alpha_of(child(model, 1 + blocks, offline.Snake, device)))
    first, last = (child(model, i, offline.CausalConv, device) for i in (0, 2 + blocks))
    scaled = CausalProduct(layout, conv_taps(first) * alphas[0], bias_of(first.conv) * alphas[0], few_rows=True)
    del first
    parts: dict[str, list[Layer]] = {"decoder.0": [scaled]}
    snake: Snake | None = None  # of the first block: the convolution before it has scaled its input already
    for i, block in enumerate(nested):
        conv = child(block, 1, offline.CausalTransposedConv, device)
        taps, bias = transposed_taps(conv) / alphas[i][:, None], bias_of(conv.conv)
        product = CausalProduct(layout, taps, None, stride_out=conv.stride, few_rows=i == 0)
        del conv, taps  # the largest of all, and the block's other parts come next
        units, pending = residuals(layout, block, 2, bias, device)
        parts[f"decoder.{1 + i}"] = [SnakeProduct(snake, product), *units]
        snake = Snake(alphas[i + 1], pending)
    block_size = math.gcd(OUTPUT_BLOCK, codec.frame_samples)
    final = CausalProduct(layout, conv_taps(last) / alphas[-1][:, None], bias_of(last.conv), block=block_size)
    parts["decoder.out"] = [SnakeProduct(snake, final)]
    return parts


def _encoder(layout: Layout, codec: offline.Codec, chunk_frames: int, device: torch.device) -> Iterator[Layer]:
    """Waveform [B * L, 1] to what is quantised."""
    blocks, positions = codec.encoder.block, codec.frame_samples  # positions a frame
    first = child(blocks, 0, offline.CausalConv, device)
    yield CausalProduct(layout, conv_taps(first), None)
    pending: Tensor | None = bias_of(first.conv)
    for i in range(len(codec.config.encoder_rates)):
        block = child(blocks, 1 + i, offline.EncoderBlock).block
        units, pending = residuals(layout, block, 0, pending, device)
        yield from units
        alpha, conv = alpha_of(child(block, 3, offline.Snake, device)), child(block, 4, offline.CausalConv, device)
        bias, attends = bias_of(conv.conv), len(block) > 5
        positions //= conv.stride
        scaled = conv_taps(conv) / alpha.repeat(conv.stride)[:, None]
        product = CausalProduct(layout, scaled, bias if attends else None)
        del conv, scaled  # as large as all that comes next
        yield SnakeProduct(Snake(alpha, pending), product)
        pending = None if attends else bias
        if attends:
            yield Transformer(layout, child(block, 5, offline.WindowTransformer), positions, chunk_frames, device)
    at = len(blocks) - 2
    alpha, last = alpha_of(child(blocks, at, offline.Snake, device)), child(blocks, at + 1, offline.CausalConv, device)
    final = CausalProduct(layout, conv_taps(last) / alpha[:, None], bias_of(last.conv))
    yield SnakeProduct(Snake(alpha, pending), final)
    for i in range(len(codec.quantizer.downsample)):
        pair = child(codec.quantizer.downsample, i, nn.Sequential, device)
        conv = child(pair, 0, offline.CausalConv)
        yield CausalProduct(layout, conv_taps(conv), bias_of(conv.conv))
        yield ConvNext(layout, child(pair, 1, offline.ConvNextBlock))
    yield Transformer(layout, codec.quantizer.pre_module, 1, chunk_frames, device)

"""The tensors of a step: prefill, decode, and one frame for every row that has a hidden state.

Knows the model, the codec and their per-row state. Does not know streams, text or why a row is asked for. The slow step, the fast loop
and the codec frame each run once for all rows; CPU and CUDA take the same path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.api import EngineLimits, Samples, SamplingParams
from engine.attention import FrameKV
from engine.codec import Codec
from engine.kv import PAGE, CachedSequence, Columns, PagedAttention, PagePool
from engine.model import DualAR, Hidden
from engine.sampling import Sampler
from engine.streaming import StreamingCodec


@dataclass(frozen=True, slots=True, eq=False)
class FrameDrawn:
    """A row drew a frame."""

    codes: npt.NDArray[np.int16]  # [K]
    column: Columns  # [K + 1, 1], what the next decode step feeds
    samples: Samples  # [frame]


class Outcome(Enum):
    """What a row drew instead of a frame."""

    END = "end"  # of its segment
    NAN = "nan"  # nothing: what it would be drawn from is not finite, and the codec would make loud noise of it


Drawn = FrameDrawn | Outcome


class Runner:
    """Owns weights, KV pages, sampling state and codec rows of one device."""

    def __init__(self, model: DualAR, codec: Codec, limits: EngineLimits) -> None:
        """model: prepared for serving. Memory for every row and page is taken now."""
        config, rows = model.config, limits.max_streams
        slow, fast = config.slow, config.fast
        self.codec = codec
        self.max_positions = config.max_positions
        pages = -(-limits.kv_positions // PAGE)
        self.pool = PagePool(slow.n_layer, slow.n_kv_head, slow.head_dim, pages, model.device, model.dtype)
        self._model = model
        self._sampler = Sampler(rows, config.num_codebooks, model.device)
        self._frame_kv = FrameKV(fast, rows, config.num_codebooks, model.device, model.dtype)
        # One row more than streams: for jobs, which never take one from speech.
        self.streaming, self.spare_row = StreamingCodec(codec, rows + 1), rows

    def open_row(self, row: int, params: SamplingParams, turn: int) -> None:
        """Start a turn in a row: fresh codec state, noise that follows from seed and turn alone."""
        self._sampler.open(row, params, turn)
        self.streaming.reset(row)

    def begin_segment(self, row: int) -> None:
        """Nothing drawn before counts as repeated. The noise goes on, so a second attempt at a segment draws anew."""
        self._sampler.begin(row)

    def close_row(self, row: int) -> None:
        self._sampler.close(row)

    def reset_codec(self, row: int) -> None:
        """Forget a row's codec state: after a NaN nothing that was computed from it can be trusted."""
        self.streaming.reset(row)

    @torch.inference_mode()
    def prefill(self, sequence: CachedSequence, new: int) -> Hidden:
        """Compute the last `new` positions of a sequence. Returns the last one's hidden state, [1, D]."""
        return self._slow([sequence], sequence.columns[None, :, -new:]).at(-1)

    @torch.inference_mode()
    def decode(self, sequences: Sequence[CachedSequence]) -> Hidden:
        """Compute the last position of every sequence in one pass. Returns [B, D]."""
        return self._slow(sequences, np.stack([sequence.columns[:, -1:] for sequence in sequences])).at(-1)

    def _slow(self, sequences: Sequence[CachedSequence], matrix: npt.NDArray[np.int64]) -> Hidden:
        attend = PagedAttention(self.pool, sequences, [matrix.shape[2]] * len(sequences))
        x = self._model.embed(torch.from_numpy(matrix).to(self._model.device))
        return self._model.slow(x, attend.positions, attend)

    @torch.inference_mode()
    def frames(self, hidden: Sequence[Hidden], rows: Sequence[int]) -> list[Drawn]:
        """Draw one frame for each row from its hidden state and decode it.

        hidden: parts whose rows, one after the other, belong to `rows`. A row that draws no frame leaves its codec state as it is.
        """
        model = self._model
        parts = Hidden(torch.cat([part.head for part in hidden]), torch.cat([part.fast for part in hidden]))
        index = torch.tensor(rows, device=model.device)
        draws = self._sampler.frame(index)
        logits = model.head(parts.head)
        # Of all logits of the frame: finite only if each of them is. In float32, which a sum of half-precision ones does not exceed.
        mass = logits.sum(-1, dtype=torch.float32)

        def draw(codebook: int, logits: Tensor) -> Tensor:
            mass.add_(logits.sum(-1, dtype=torch.float32))
            return draws.codebook(codebook, logits)

        column = draws.semantic(logits)
        codes = model.fast_frame(parts.fast, model.code_of(column), draw, self._frame_kv)
        draws.commit(column)
        # The one copy to the host before the codec: which rows ended or broke decides who has a frame.
        sound = mass.isfinite()[:, None].long()
        host = torch.cat((sound, model.token_of(column)[:, None], codes), 1).cpu().numpy()
        drawn: list[Drawn] = [Outcome.END if host[b, 0] else Outcome.NAN for b in range(len(rows))]
        speaking = [b for b in range(len(rows)) if host[b, 0] and host[b, 1] != model.config.im_end]
        if speaking:
            samples = self._decode(codes, rows, speaking)
            for b, wave in zip(speaking, samples, strict=True):
                drawn[b] = FrameDrawn(host[b, 2:].astype(np.int16), host[b, 1:, None], wave)
        return drawn

    def _decode(self, codes: Tensor, rows: Sequence[int], speaking: Sequence[int]) -> Samples:
        chosen = codes if len(speaking) == len(rows) else codes[torch.tensor(speaking, device=codes.device)]
        wave = self.streaming.step(chosen[:, :, None], [rows[b] for b in speaking])
        return wave.float().cpu().numpy()

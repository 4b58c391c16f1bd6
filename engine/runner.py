"""The tensors of a step: prefill, decode, and one frame for every row that has a hidden state.

Knows the model, its per-row state, and where frames become samples. Does not know streams, text or why a row is asked for. The slow step,
the fast loop and the codec frame each run once for all rows; CPU and CUDA take the same path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from engine.api import EngineLimits, SamplingParams
from engine.attention import FrameKV
from engine.captured import buckets
from engine.codec import Codec
from engine.decoding import FrameDecoder, InlineDecoder
from engine.drawing import draw_frame
from engine.frame_graphs import FrameGraphs
from engine.gaze import Gaze, HeadGroups, TextSpan
from engine.graphed_decoder import GraphedDecoder
from engine.heads import Head
from engine.kv import PAGE, CachedSequence, Columns, PagedAttention, PagePool
from engine.model import DualAR, Hidden
from engine.random_weights import ForcedEnds
from engine.sampling import Sampler
from engine.slow_graph import in_place
from engine.solo import SoloGraphs, traceable
from engine.streaming import StreamingCodec


@dataclass(frozen=True, slots=True, eq=False)
class FrameDrawn:
    """A row drew a frame."""

    codes: npt.NDArray[np.int16]  # [K]
    column: Columns  # [K + 1, 1], what the next decode step feeds


class Outcome(Enum):
    """What a row drew instead of a frame."""

    END = "end"  # of its segment
    NAN = "nan"  # nothing: what it would be drawn from is not finite, and the codec would make loud noise of it


Drawn = FrameDrawn | Outcome


class Runner:
    """Owns weights, KV pages, sampling state and codec rows of one device."""

    def __init__(
        self,
        model: DualAR,
        codec: Codec,
        limits: EngineLimits,
        decoder: FrameDecoder | None = None,
        heads: Sequence[Head] = (),
        ends: ForcedEnds | None = None,
        graphs: bool = False,
    ) -> None:
        """model: prepared for serving. decoder: of `codec` and as many rows as `limits` has streams; None: one on the model's device.

        heads: that follow the text; without any, nobody can tell where in it a row is. ends: of segments, where the model
        itself never ends one and what it draws as an end is none. graphs: steps run as `FrameGraphs`. On a CPU steps of one row run as
        `SoloGraphs` where they can.
        Memory for every row and page is taken now.
        """
        config, rows = model.config, limits.max_streams
        slow, fast = config.slow, config.fast
        self.codec = codec
        self.max_positions = config.max_positions
        pages = -(-limits.kv_positions // PAGE)
        # Whoever is watched is computed outside graphs. A step of 217 rows takes a dozen pages: 2.1 ms with zeroing, 0.2 without.
        zeroing = not graphs or bool(heads) or not in_place(model)
        self.pool = PagePool(slow.n_layer, slow.n_kv_head, slow.head_dim, pages, model.device, model.dtype, zeroing)
        self._model = model
        self._ends = ends
        self._left: dict[int, int] = {}  # frames until a row's segment is ended, where ends are forced
        self._heads = HeadGroups(heads, slow, model.device) if heads else None
        self.sampler = Sampler(rows + 1, config.num_codebooks, model.device, model.kernels)
        self._frame_kv = FrameKV(fast, rows, config.num_codebooks, model.device, model.dtype)
        # For jobs, which never take a row from speech: one row more than streams, or one here if speech is decoded elsewhere.
        self.spare_row = rows if decoder is None else 0
        nobodys = 1 if graphs and decoder is None else 0
        solo = traceable(model)
        self.streaming = StreamingCodec(codec, self.spare_row + 1 + nobodys, solo and decoder is None, model.device)
        self._solo = SoloGraphs(model, self.pool, self._heads, self.sampler) if solo else None
        self.graphed = graphs
        self._graphs: FrameGraphs | None = None
        if graphs:
            with torch.inference_mode():
                self._graphs = FrameGraphs(model, self.pool, self.sampler, self._frame_kv, rows, spare_row=rows)
                if decoder is None:
                    decoder = GraphedDecoder(self.streaming, buckets(rows), self.spare_row + 1, model.device)
        self.decoder = InlineDecoder(self.streaming, model.device) if decoder is None else decoder

    def open_row(self, row: int, params: SamplingParams, turn: int) -> None:
        """Start a turn in a row: fresh codec state, noise that follows from seed and turn alone."""
        self.sampler.open(row, params, turn)
        self.decoder.reset(row)

    def begin_segment(self, row: int, text: str) -> None:
        """Nothing drawn before counts as repeated. The noise goes on, so a second attempt at a segment draws anew."""
        self.sampler.begin(row)
        if self._ends is not None:
            self._left[row] = self._ends.frames(text)

    def take_back(self, row: int) -> None:
        """The row's last draw was in vain: the next one has its noise. Only between segments: what counts as repeated stays as it is."""
        self.sampler.take_back(row)

    def close_row(self, row: int) -> None:
        self.sampler.close(row)

    def gaze(self, texts: Sequence[TextSpan]) -> Gaze | None:
        """To see with, in one pass over as many rows, what each looks at in its text. None: nobody has chosen heads of this model."""
        return None if self._heads is None else Gaze(self._heads, texts)

    @torch.inference_mode()
    def prefill(self, sequence: CachedSequence, new: int, gaze: Gaze | None = None) -> Hidden:
        """Compute the last `new` positions of a sequence. Returns the last one's hidden state, [1, D]."""
        if self._graphs is not None and gaze is None:
            return self._graphs.prefill(sequence, new)
        attend = PagedAttention(self.pool, [sequence], [new], gaze)
        return self._slow(sequence.columns[None, :, -new:], attend, gaze)

    @torch.inference_mode()
    def decode(self, sequences: Sequence[CachedSequence], gaze: Gaze | None = None) -> Hidden:
        """Compute the last position of every sequence in one pass. Returns [B, D]."""
        if self._graphs is not None and gaze is None:
            return self._graphs.decode(sequences)
        if self._solo is not None and len(sequences) == 1:
            return self._solo.decode(sequences[0], gaze)
        attend = PagedAttention(self.pool, sequences, [1] * len(sequences), gaze)
        return self._slow(np.stack([sequence.columns[:, -1:] for sequence in sequences]), attend, gaze)

    @torch.inference_mode()
    def advance(
        self,
        prefills: Sequence[tuple[CachedSequence, int, Gaze | None]],
        decoding: Sequence[CachedSequence],
        gaze: Gaze | None = None,
    ) -> tuple[list[Hidden], Hidden | None]:
        """`prefill` for some sequences, and `decode` for others, if any; in fewer passes where they can share one."""
        if self._graphs is not None and gaze is None and all(look is None for *_, look in prefills):
            return self._graphs.advance([(sequence, new) for sequence, new, _ in prefills], decoding)
        states = [self.prefill(sequence, new, look) for sequence, new, look in prefills]
        return states, self.decode(decoding, gaze) if decoding else None

    def _slow(self, matrix: npt.NDArray[np.int64], attend: PagedAttention, gaze: Gaze | None) -> Hidden:
        x = self._model.embed(torch.from_numpy(matrix).to(self._model.device))
        hidden = self._model.slow(x, attend.positions, attend).at(-1)
        if gaze is not None:
            gaze.finish()
        return hidden

    @torch.inference_mode()
    def draw(
        self, hidden: Sequence[Hidden], rows: Sequence[int], sequences: Sequence[CachedSequence] = ()
    ) -> list[Drawn]:
        """Draw one frame for each row from its hidden state; `decoder` makes samples of those that are wanted.

        hidden: parts whose rows, one after the other, belong to `rows`. sequences: of the rows, which the frames will join if they go
        on: their next step may be begun now. Without them it is not. No rows: this only waits until the device has done what it was given,
        or whoever measures a prefill would measure how long it takes to ask for it.
        """
        if not rows:
            self._wait()
            return []
        if self._graphs is not None:
            # Who is watched while he decodes does not decode in a graph, so nothing is begun ahead for him.
            host = self._graphs.draw(hidden, rows, sequences if self._heads is None else ())
        else:
            solo = self._solo if len(rows) == 1 and self.sampler.usual else None
            frame = partial(draw_frame, self._model, self.sampler, self._frame_kv) if solo is None else solo.draw
            # The one copy to the host before the codec: which rows ended or broke decides who has a frame.
            host = frame(_joined(hidden), torch.tensor(rows, device=self._model.device)).cpu().numpy()
        if self._ends is not None:
            return [self._drawn_until(row, out) for row, out in zip(rows, host, strict=True)]
        return [self._drawn(row) for row in host]

    def _wait(self) -> None:
        if self._model.device.type == "cuda":
            torch.cuda.current_stream(self._model.device).synchronize()

    def _drawn_until(self, row: int, out: npt.NDArray[np.int64]) -> Drawn:
        """As `_drawn`, with the end where it is forced and nowhere else."""
        if not self._left[row]:
            return Outcome.END
        self._left[row] -= 1
        if out[1] == self._model.config.im_end:
            out[1] = self._model.config.semantic_begin  # the codes are those of the first entry already
        return self._drawn(out)

    def _drawn(self, row: npt.NDArray[np.int64]) -> Drawn:
        """row: [K + 2]: whether it is sound, its token, its codes."""
        if not row[0]:
            return Outcome.NAN
        if row[1] == self._model.config.im_end:
            return Outcome.END
        return FrameDrawn(row[2:].astype(np.int16), row[1:, None])


def _joined(parts: Sequence[Hidden]) -> Hidden:
    if len(parts) == 1:
        return parts[0]
    return Hidden(torch.cat([part.head for part in parts]), torch.cat([part.fast for part in parts]))

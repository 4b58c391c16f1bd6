"""Drawing tokens: the filter, the repetition rules and the noise.

Knows the reference's rules (spec 6.1), per-row parameters and where randomness comes from. Does not know models or streams.
Every function works on all rows at once, row by row independent: what a row draws never depends on its neighbours. Nothing
waits for the device, so that a frame's draws can be part of a CUDA graph.

Noise is counter-based: a hash of (seed, turn, frame, draw, entry) in integer arithmetic, the same on CPU and CUDA. Batching,
eviction or another replica therefore change nothing. Only the candidates that the filter may keep get noise.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.api import SamplingParams

RAS_WINDOW = 10  # semantic tokens in which a repetition makes the fallback draw win
RAS_TEMPERATURE, RAS_TOP_P = 1.0, 0.9  # of the fallback draw
PENALTY_WINDOW = 16  # semantic tokens that the repetition penalty looks back on
WIDTHS = (32, 128, 1024, 8192)  # candidates are taken by these counts, so that few shapes exist

# The draws of a frame, as numbers that the noise tells apart. Codebook k >= 1 is draw k + 1.
SEMANTIC, FALLBACK = 0, 1

_NOTHING = -1  # in the history: no token yet
_STATE = ("_temperature", "_limit", "_penalty", "_key", "_frame", "_age", "_history")  # of a Sampler
_MASK = 0xFFFFFFFF
_STRIDE = 0x1E3779B1  # odd and far from round numbers: neighbouring entries start far apart
_MIN_TEMPERATURE = 1e-5

# Numbers as tensors: arithmetic makes one of every number of Python's, which takes as long as the operation itself. Without dimensions,
# so a GPU's operation takes them as they are.
_NINE, _FIFTEEN, _SIXTEEN = torch.tensor(9), torch.tensor(15), torch.tensor(16)
_FACTOR_1, _FACTOR_2, _WORD = torch.tensor(0x7FEB352D), torch.tensor(0x2C1B3C6D), torch.tensor(_MASK)
_HALF_STEP = torch.tensor(2.0**-24)

# (draw, entries int64 [S, B, W]) -> float32 of that shape in (0, 1): the noise of S consecutive draws from `draw` on.
Noise = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Policy:
    """Temperature and filter of some rows; leading dimensions broadcast."""

    temperature: Tensor  # float32 [..., B, 1]
    limit: Tensor  # float32 [..., B, W]: a rank is kept while the mass up to and with it is <= this; see `limits`


def limits(top_p: float, top_k: int, width: int) -> Tensor:
    """A row of `Policy.limit`, float32 [width]: both filters as one comparison.

    Rank 0 always passes, ranks from top_k on never do. The token that crosses top_p is removed, as in the reference; top_p = 1
    removes nothing, however the sum was rounded.
    """
    return _limited(torch.empty(width), top_p, top_k)


def _limited(limit: Tensor, top_p: float, top_k: int) -> Tensor:
    """Writes the row. `fill_`, because to assign a number to one element copies it from the host, which waits for the whole device."""
    limit.fill_(top_p if top_p < 1.0 else math.inf)
    limit[top_k:].fill_(-1.0)
    limit[0].fill_(math.inf)
    return limit


def policy(params: Sequence[SamplingParams], device: torch.device | str = "cpu") -> Policy:
    """The policy of rows with these parameters."""
    width = width_for(max(row.top_k for row in params))
    temperature = [[max(row.temperature, _MIN_TEMPERATURE)] for row in params]
    limit = torch.stack([limits(row.top_p, row.top_k, width) for row in params])
    return Policy(torch.tensor(temperature, device=device), limit.to(device))


def width_for(top_k: int) -> int:
    """How many candidates are looked at where top_k must be served."""
    return next((width for width in WIDTHS if width >= top_k), WIDTHS[-1])


@dataclass(frozen=True, slots=True)
class Candidates:
    """The likeliest entries of each row, best first; float32 [B, W] each but for the entries."""

    logits: Tensor
    mass: Tensor  # probability of this entry and all before it, before any temperature
    entries: Tensor  # int64 [B, W]


def candidates(logits: Tensor, width: int) -> Candidates:
    """logits: [B, V] of any float dtype; sampled in float32. width: at most this many."""
    wide = logits.float()
    top, entries = wide.topk(min(width, wide.shape[-1]))
    mass = wide.softmax(-1).gather(-1, entries).cumsum(-1)
    return Candidates(top, mass, entries)


def pick(found: Candidates, rule: Policy, uniform: Tensor) -> Tensor:
    """Draw one entry a row. uniform: float32 in (0, 1), of the shape that the rule broadcasts to. Returns int64 [..., B].

    An exponential race, argmax of p / -ln(u), taken in logarithms: its winner has exactly the filtered distribution.
    """
    score = found.logits / rule.temperature - uniform.log().neg_().log_()
    best = _kept(found, rule, score).argmax(-1, keepdim=True)  # [..., B, 1]
    return found.entries.expand(score.shape).gather(-1, best).squeeze(-1)


def probabilities(found: Candidates, rule: Policy, entries: int) -> Tensor:
    """The distribution that `pick` draws from, float32 [B, entries]: for checks."""
    kept = _kept(found, rule, found.logits / rule.temperature).softmax(-1)
    return torch.zeros(kept.shape[0], entries, device=kept.device).scatter_(-1, found.entries, kept)


def _kept(found: Candidates, rule: Policy, score: Tensor) -> Tensor:
    """`score` where the rule keeps the candidate, else -inf."""
    return score.masked_fill(found.mass > rule.limit[..., : score.shape[-1]], -math.inf)


def penalised(logits: Tensor, history: Tensor, penalty: Tensor) -> Tensor:
    """Make entries of the history less likely. logits: [B, V]. history: int64 [B, N], -1 for none. penalty: float32 [B, 1], >= 1.

    A positive logit is divided, a negative one multiplied; once, however often the entry occurred. 1 changes nothing at all.
    """
    wide = logits.float()
    rows, entries = wide.shape
    seen = torch.zeros(rows, entries + 1, dtype=torch.bool, device=wide.device)
    seen.scatter_(1, torch.where(history < 0, entries, history), True)  # the column too many takes what is no entry
    return torch.where(seen[:, :-1], torch.where(wide > 0, wide / penalty, wide * penalty), wide)


class CounterNoise:
    """Noise of one frame of some rows. A `Noise`."""

    def __init__(self, key: Tensor, frame: Tensor, draws: int) -> None:
        """key: int64 [2, B], from `noise_key`. frame: int64 [B], counts a turn's frames. draws: how many draws a frame has."""
        counter = frame * 256 + torch.arange(draws, device=frame.device)[:, None]  # [draws, B]; a frame has < 256 draws
        # _mix is a bijection, so no two draws of a turn start from the same word.
        self._start = _mix(key[0] ^ (counter & _MASK))[..., None]  # [draws, B, 1]
        self._key = key[1, :, None]  # [B, 1]

    def __call__(self, draw: int, entries: Tensor) -> Tensor:
        start = self._start[draw : draw + entries.shape[0]]
        return _unit(_mix(torch.add(start, entries, alpha=_STRIDE).bitwise_and_(_WORD).bitwise_xor_(self._key)))


def noise_key(seed: int, turn: int) -> tuple[int, int]:
    """Two 32-bit words that stand for a turn's randomness; any integers do."""
    digest = hashlib.blake2b(f"{seed} {turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit words that spreads every bit; consumes x.

    Words live in int64, and the factors are below 2**31, so that no product overflows: what an overflow of signed integers
    gives is not defined.
    """
    x ^= x >> _SIXTEEN
    x *= _FACTOR_1
    x &= _WORD
    x ^= x >> _FIFTEEN
    x *= _FACTOR_2
    x &= _WORD
    x ^= x >> _SIXTEEN
    return x


def _unit(x: Tensor) -> Tensor:
    """32-bit words to float32 in (0, 1). 23 bits and a half: the extremes 2**-24 and 1 - 2**-24 are exact, so never 0 or 1."""
    return torch.add(_HALF_STEP, x >> _NINE, alpha=2.0**-23)


class Sampler:
    """Sampling state of a fixed number of rows. Every tensor in it keeps its place for as long as it lives."""

    def __init__(self, rows: int, codebooks: int, device: torch.device | str = "cpu", kernels: bool = False) -> None:
        """codebooks: K of a frame, the semantic one included. kernels: of `engine.sampling_triton` draw where they can; needs a GPU."""
        assert codebooks < 255, "the noise counter has room for 256 draws a frame"
        self.draws = codebooks + 1  # the semantic one, its fallback, and codebooks 1..K-1
        self.kernels = kernels  # draw frames while this is `usual`; see engine.drawing
        self.width = WIDTHS[0]  # candidates that serve every open row
        self.penalising = False  # some open row has a repetition penalty
        self._params: dict[int, SamplingParams] = {}  # of open rows
        self._temperature = torch.ones(2, rows, 1, device=device)  # own, fallback
        self._limit = torch.zeros(2, rows, WIDTHS[-1], device=device)
        self._penalty = torch.ones(rows, 1, device=device)
        self._key = torch.zeros(2, rows, dtype=torch.int64, device=device)
        self._frame = torch.zeros(rows, dtype=torch.int64, device=device)  # drawn in the turn
        self._age = torch.zeros(rows, dtype=torch.int64, device=device)  # drawn in the segment
        self._history = torch.full((rows, PENALTY_WINDOW), _NOTHING, device=device)  # of the segment, newest last

    @property
    def state(self) -> list[Tensor]:
        """Every tensor in it."""
        return [getattr(self, name) for name in _STATE]

    def over(self, state: Sequence[Tensor]) -> Sampler:
        """The same sampler with other tensors in the place of `state`."""
        twin = copy(self)
        for name, tensor in zip(_STATE, state, strict=True):
            setattr(twin, name, tensor)
        return twin

    def open(self, row: int, params: SamplingParams, turn: int) -> None:
        """Start a turn in a row. Its noise follows from params.seed and `turn` alone."""
        self._params[row] = params
        # `fill_` everywhere: see `_limited`.
        for place, number in enumerate((max(params.temperature, _MIN_TEMPERATURE), RAS_TEMPERATURE)):
            self._temperature[place, row].fill_(number)
        _limited(self._limit[0, row], params.top_p, params.top_k)
        _limited(self._limit[1, row], RAS_TOP_P, params.top_k)
        self._penalty[row].fill_(params.repetition_penalty)
        for place, half in enumerate(noise_key(params.seed, turn)):
            self._key[place, row].fill_(half)
        self._frame[row].zero_()
        self._settle()
        self.begin(row)

    def begin(self, row: int) -> None:
        """Start a segment in a row: nothing counts as repeated. The noise goes on, so a second attempt draws anew."""
        self._age[row].zero_()
        self._history[row].fill_(_NOTHING)

    def take_back(self, row: int) -> None:
        """A frame that was drawn is not used: the next one gets its noise. Its token still counts as drawn until `begin`."""
        self._frame[row] -= 1

    def close(self, row: int) -> None:
        """End a turn. Harmless for a row that is not open."""
        self._params.pop(row, None)
        self._settle()

    def frame(self, rows: Tensor, noise: Noise | None = None) -> FrameDraws:
        """The draws of these rows' next frame. rows: int64 [B], distinct. noise: instead of the counter-based one."""
        if noise is None:
            key, frame = self._key.index_select(1, rows), self._frame.index_select(0, rows)
            noise = CounterNoise(key, frame, self.draws)
        return FrameDraws(self, rows, noise)

    @property
    def usual(self) -> bool:
        """Few candidates and no penalty, for every open row."""
        return self.width == WIDTHS[0] and not self.penalising

    def fixed(self, width: int, penalising: bool) -> Sampler:
        """This sampler for draws of rows that so many candidates serve, whatever else is open; only to draw with."""
        twin = copy(self)
        twin.width, twin.penalising = width, penalising
        return twin

    def serves(self, row: int) -> bool:
        """Whether the draws of this row are exact here."""
        params = self._params.get(row)
        return params is None or (params.top_k <= self.width and (self.penalising or params.repetition_penalty == 1.0))

    def _settle(self) -> None:
        self.width = width_for(max((row.top_k for row in self._params.values()), default=1))
        self.penalising = any(row.repetition_penalty != 1.0 for row in self._params.values())


class FrameDraws:
    """One frame's draws: `semantic`, then `codebook` for each codebook after it, then `commit`."""

    def __init__(self, sampler: Sampler, rows: Tensor, noise: Noise) -> None:
        self._sampler = sampler
        self._rows = rows
        self._noise = noise
        limit = sampler._limit[:, :, : sampler.width]
        temperature = sampler._temperature.index_select(1, rows)
        self._both = Policy(temperature, limit.index_select(1, rows))  # [2, B, ...]
        self._own = Policy(self._both.temperature[0], self._both.limit[0])

    def semantic(self, logits: Tensor) -> Tensor:
        """Columns of the head, int64 [B]. logits: [B, n_semantic + 1], the last column being `<|im_end|>`.

        Two draws from the same logits; the second wins where the first repeats a recent semantic token (RAS, spec 6.1).
        """
        sampler, rows = self._sampler, self._rows
        history = sampler._history.index_select(0, rows)
        if sampler.penalising:
            logits = penalised(logits, history, sampler._penalty[rows])
        found = candidates(logits, sampler.width)
        normal, fallback = pick(found, self._both, self._noise(SEMANTIC, found.entries.expand(2, -1, -1)))
        window = history[:, -RAS_WINDOW:]
        # The reference leaves a segment's first token out of its window. It has moved `age` places from the end by now.
        first = RAS_WINDOW - sampler._age.index_select(0, rows)[:, None]
        entered = torch.arange(RAS_WINDOW, device=window.device) > first
        # `<|im_end|>` never repeats: it ends the segment, so it is not in the history of one that goes on.
        repeats = ((window == normal[:, None]) & entered).any(-1)
        return torch.where(repeats, fallback, normal)

    def codebook(self, codebook: int, logits: Tensor) -> Tensor:
        """Codes of codebook 1..K-1, int64 [B]. logits: [B, V]. A `Draw` of engine.model."""
        found = candidates(logits, self._sampler.width)
        return pick(found, self._own, self._noise(codebook + 1, found.entries[None])[0])

    def commit(self, column: Tensor) -> None:
        """The frame is done and its semantic column was this: what the next frame's draws look back on. Call it once."""
        sampler, rows = self._sampler, self._rows
        history = sampler._history.index_select(0, rows)
        sampler._history.index_copy_(0, rows, torch.cat((history[:, 1:], column[:, None]), 1))
        one = torch.ones_like(rows)
        sampler._age.index_add_(0, rows, one)
        sampler._frame.index_add_(0, rows, one)

"""Which of many recordings is nearest to a given one, whatever their pace: mel spectra and dynamic time warping.

Knows coarse log-mel frames and the warping itself, many candidates at once. Does not know texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from engine.train.losses import LogMel

Frames = npt.NDArray[np.float32]  # [T, features]

_FFT, _BANDS, _HOP = 1024, 40, 1024  # a frame every 46 ms: the shortest sound is about as long


class Spectra:
    """Turns samples into frames that depend neither on level nor on colouring."""

    def __init__(self) -> None:
        self._mel = LogMel(_FFT, _BANDS, _HOP)

    @torch.inference_mode()
    def __call__(self, samples: npt.NDArray[np.float32]) -> Frames:
        """samples [n] at 22,050 Hz -> [T, 40], each band with mean 0 and spread 1 over time."""
        wide = np.pad(samples, (0, max(0, _FFT - len(samples))))
        mel = self._mel(torch.from_numpy(wide)[None])[0].T.numpy()
        mel = np.maximum(mel, mel.max() - 3.0)  # 60 dB below the loudest lie codec and recording noise
        normed: Frames = ((mel - mel.mean(0)) / (mel.std(0) + 0.1)).astype(np.float32)
        return normed


def distances(query: Frames, candidates: Sequence[Frames]) -> npt.NDArray[np.float64]:
    """Warped distance of `query` [T, D] to each candidate [T_i, D]: the cheapest path of steps (1, 0), (0, 1), (1, 1) from both
    beginnings to both ends, divided by T + T_i. Every cell of a path costs its Euclidean distance, a diagonal step's twice.

    Works along anti-diagonals, all candidates at once, in T + max(T_i) - 1 vector operations.
    """
    rows, longest = len(query), max(len(candidate) for candidate in candidates)
    cost = np.full((len(candidates), rows, longest), np.inf, np.float32)
    for number, candidate in enumerate(candidates):
        square = (query**2).sum(1)[:, None] + (candidate**2).sum(1)[None] - 2 * query @ candidate.T
        cost[number, :, : len(candidate)] = np.sqrt(np.maximum(square, 0))
    out = np.empty(len(candidates))
    lengths = np.array([len(candidate) for candidate in candidates])
    # Cell (i, j) lies on diagonal i + j, at index i.
    older = np.full((len(candidates), rows + 1), np.inf)  # diagonal d - 2, shifted by one so that index i is row i - 1
    newer = np.full((len(candidates), rows + 1), np.inf)
    index = np.arange(rows)
    for d in range(rows + longest - 1):
        inside = (d - index >= 0) & (d - index < longest)
        here = np.where(inside, cost[:, index, np.clip(d - index, 0, longest - 1)], np.inf)
        if d:
            left, up, across = newer[:, 1:], newer[:, :-1], older[:, :-1]
            here = np.minimum(np.minimum(left, up) + here, across + 2 * here)
        older, newer = newer, np.concatenate([np.full((len(candidates), 1), np.inf), here], 1)
        ended = lengths == d - rows + 2
        out[ended] = here[ended, -1]
    per_cell: npt.NDArray[np.float64] = out / (rows + lengths)
    return per_cell


def nearest(queries: Sequence[Frames], candidates: Sequence[Frames]) -> list[int]:
    """For each query, which candidate is nearest."""
    return [int(distances(query, candidates).argmin()) for query in queries]

"""What is said in a recording and where: the phoneme recogniser, errors against a text, and words found in time.

Knows batches of clips, edit distance and forced alignment. Does not know who speaks or why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from engine.evaluate.teaching import Reading
from engine.train.phones import SILENCE
from engine.train.recognizer import Recognizer, collapse, load_recognizer

Samples = npt.NDArray[np.float32]
STEP_S = 512 / 22050  # seconds an output of the recogniser
_SHORTEST = 2048  # samples; fewer do not fill a window
_RMS = 0.05  # of full scale while speaking, as the renderer has it


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """What the recogniser makes of one clip."""

    scores: npt.NDArray[np.float32]  # [T, classes], log probabilities
    phones: tuple[int, ...]


class Ear:
    """The recogniser, on any number of clips."""

    def __init__(self, weights: Path, device: torch.device) -> None:
        self._model: Recognizer = load_recognizer(weights, device)
        self._device = device

    @torch.inference_mode()
    def hear(self, clips: Sequence[Samples]) -> list[Heard]:
        """clips: [n] at 22,050 Hz each; nothing is heard in an empty one."""
        return [self._hear(clip) for clip in clips]

    def _hear(self, clip: Samples) -> Heard:
        # One by one: the recogniser's convolutions would hear what a batch pads with, and figures would depend on neighbours.
        padded = np.pad(_levelled(clip), (0, max(0, _SHORTEST - len(clip))))
        logits = self._model(torch.from_numpy(padded)[None].to(self._device))[0, : len(clip) // 512 + 1]
        scores = F.log_softmax(logits.float(), -1).cpu().numpy()
        return Heard(scores, tuple(collapse(scores.argmax(-1).tolist())))


def _levelled(clip: Samples) -> Samples:
    """At the level of the speech that the recogniser has learnt: how loud somebody speaks is not how clearly."""
    loud = clip[np.abs(clip) > 0.01 * np.abs(clip).max(initial=0.0)]
    rms = float(np.sqrt(np.mean(loud.astype(np.float64) ** 2))) if len(loud) else 0.0
    return clip * np.float32(_RMS / max(rms, 1e-4))


def matched(said: Sequence[int], wanted: Sequence[int]) -> list[bool]:
    """For each wanted sound, whether the cheapest alignment with what was said has it."""
    rows, columns = len(said) + 1, len(wanted) + 1
    cost = np.zeros((rows, columns), np.int64)
    cost[:, 0], cost[0] = np.arange(rows), np.arange(columns)
    for i in range(1, rows):
        for j in range(1, columns):
            change = cost[i - 1, j - 1] + (said[i - 1] != wanted[j - 1])
            cost[i, j] = min(cost[i - 1, j] + 1, cost[i, j - 1] + 1, change)
    out, i, j = [False] * len(wanted), len(said), len(wanted)
    while i and j:
        same = said[i - 1] == wanted[j - 1]
        if cost[i, j] == cost[i - 1, j - 1] + (not same):
            i, j = i - 1, j - 1
            out[j] = same
        elif cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
        else:
            j -= 1
    return out


def has_last_word(heard: Heard, reading: Reading) -> bool:
    """At least half of the last word's sounds were recognised where they belong, after everything else."""
    tail = matched(heard.phones, reading.phones)[-reading.last_word :]
    return 2 * sum(tail) >= len(tail)


def places(heard: Heard, phones: Sequence[int]) -> list[tuple[float, float]]:
    """(start, end) in seconds of each sound of a text in a clip that says it: the most probable CTC path (forced alignment).

    The ends are where the recogniser was last sure of the sound, not where it stopped. Clips too short for the text give
    sounds of no length at their end.
    """
    frames, states = len(heard.scores), 2 * len(phones) + 1
    label = np.full(states, SILENCE)
    label[1::2] = phones
    skips = np.zeros(states, bool)  # from two states before: over a blank between different sounds
    skips[3::2] = label[3::2] != label[1:-2:2]
    best = np.full(states, -np.inf)
    best[:2] = heard.scores[0, label[:2]]
    came = np.zeros((frames, states), np.int8)
    for t in range(1, frames):
        one = np.concatenate(([-np.inf], best[:-1]))
        two = np.where(skips, np.concatenate(([-np.inf, -np.inf], best[:-2])), -np.inf)
        options = np.stack((best, one, two))
        came[t] = options.argmax(0)
        best = options.max(0) + heard.scores[t, label]
    state = states - 1 if states == 1 or best[-1] > best[-2] else states - 2
    spans = [(frames, frames)] * len(phones)
    for t in range(frames - 1, -1, -1):
        if state % 2:
            sound = state // 2
            spans[sound] = (t, t + 1 if spans[sound][0] == frames else spans[sound][1])
        state -= int(came[t, state])
    return [(start * STEP_S, end * STEP_S) for start, end in spans]


def border(heard: Heard, reading: Reading, char: int, margin: int = 0) -> tuple[float, float]:
    """(end of the sound before, start of the sound after) a place in the text, in seconds in the clip.

    margin: so many sounds further away on either side, since the recogniser may be sure of a sound a little early or late.
    """
    found, before = places(heard, reading.phones), reading.before(char)
    last, first = before - 1 - margin, before + margin
    end = found[last][1] if last >= 0 else 0.0
    start = found[first][0] if first < len(found) else len(heard.scores) * STEP_S
    return end, max(start, end)

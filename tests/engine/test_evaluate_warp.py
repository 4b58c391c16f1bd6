"""Warped distances: equal to a plain implementation, and blind to pace and level."""

from __future__ import annotations

import numpy as np
import pytest

from engine.evaluate.warp import Frames, Spectra, distances, nearest
from engine.train.styles import SPEAKERS, Style
from tests.engine.evaluating import TEXTS, teacher


def naive(a: Frames, b: Frames) -> float:
    """Cell by cell, as a textbook has it."""
    table = np.full((len(a), len(b)), np.inf)
    for i in range(len(a)):
        for j in range(len(b)):
            cost = float(np.linalg.norm(a[i] - b[j]))
            ways = [cost] if i == j == 0 else []
            ways += [table[i - 1, j] + cost] if i else []
            ways += [table[i, j - 1] + cost] if j else []
            ways += [table[i - 1, j - 1] + 2 * cost] if i and j else []
            table[i, j] = min(ways)
    return float(table[-1, -1] / (len(a) + len(b)))


def test_all_candidates_at_once_are_as_far_as_each_is_by_itself() -> None:
    rng = np.random.default_rng(5)
    query = rng.normal(size=(13, 4)).astype(np.float32)
    candidates = [rng.normal(size=(n, 4)).astype(np.float32) for n in (1, 2, 9, 13, 14, 30)]
    np.testing.assert_allclose(distances(query, candidates), [naive(query, c) for c in candidates], rtol=1e-5)


def test_a_query_of_one_frame_is_compared_to_every_frame() -> None:
    query, other = np.zeros((1, 2), np.float32), np.ones((3, 2), np.float32)
    assert distances(query, [other])[0] == pytest.approx(naive(query, other))


def test_repeating_frames_changes_nothing() -> None:
    query = np.random.default_rng(6).normal(size=(10, 3)).astype(np.float32)
    assert distances(query, [query.repeat(3, 0)])[0] == pytest.approx(0, abs=1e-3)


def test_the_right_sentence_is_nearest_though_faster_softer_and_in_another_voice() -> None:
    spectra = Spectra()
    queries = [spectra(0.1 * teacher().say(text, SPEAKERS[2], Style.FAST)) for text in TEXTS]
    assert nearest(queries, [spectra(teacher().say(text)) for text in TEXTS]) == [0, 1, 2, 3]

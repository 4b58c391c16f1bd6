"""Heads that follow the text are found without labels, and others are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.align import AS_GOOD, GOOD_ENOUGH, MOST_HEADS, Scored, choose, main, score, speak
from engine.heads import ChosenHeads, Head
from engine.hub import resolve
from engine.load import Loaded, load_model

TEXT = "A strange noise was coming from behind the wall."
FRAMES, TOKENS = 60, 50


def looks(at: np.ndarray, share: float = 0.9) -> np.ndarray:
    out = np.full((FRAMES, TOKENS), (1 - share) / TOKENS / 2, np.float32)
    out[np.arange(FRAMES), at] += share
    return out


DIAGONAL = np.linspace(0, TOKENS - 1, FRAMES).round().astype(int)


def test_a_head_that_follows_the_text_has_nearly_its_whole_attention_as_score() -> None:
    assert score(looks(DIAGONAL)) == pytest.approx(0.9, abs=0.02)
    assert score(looks(DIAGONAL, 0.5)) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "at",
    [
        np.full(FRAMES, 20),
        DIAGONAL[::-1],
        np.where(np.arange(FRAMES) < FRAMES // 2, 0, TOKENS - 1),
        np.random.default_rng(0).integers(0, TOKENS, FRAMES),
    ],
    ids=["one place", "backwards", "one leap", "anywhere"],
)
def test_a_head_that_looks_elsewhere_has_hardly_any_score(at: np.ndarray) -> None:
    assert score(looks(at)) < 0.5 * GOOD_ENOUGH


def test_the_best_heads_are_chosen_and_such_as_are_nearly_as_good() -> None:
    ranked = [Scored(0.8, Head(4, 1)), Scored(0.8 * AS_GOOD, Head(2, 0)), Scored(0.8 * AS_GOOD - 0.01, Head(3, 3))]
    assert choose(ranked) == (Head(2, 0), Head(4, 1))
    assert len(choose([Scored(0.8, Head(0, number)) for number in range(9)])) == MOST_HEADS


def test_no_head_is_chosen_where_none_is_good_enough() -> None:
    assert choose([Scored(GOOD_ENOUGH - 0.01, Head(0, 0)), Scored(0.1, Head(0, 1))]) == ()


def linked(source: Path, folder: Path) -> Path:
    """A copy without alignment.json."""
    for path in source.iterdir():
        if path.is_file() and path.name != "alignment.json":
            (folder / path.name).symlink_to(path)
    return folder


def test_the_mini_s_own_heads_are_found_again(tmp_path: Path) -> None:
    mini = resolve("mini").folder
    folder, texts = linked(mini, tmp_path), tmp_path / "texts"
    texts.write_text(f"{TEXT}\n\nNobody expected the storm to arrive so early.\n")
    assert main([str(folder), "--texts", str(texts), "--device", "cpu"]) == 0
    stack = load_model(mini, "mini", "cpu", "float32", None).model.config.slow
    found, shipped = ChosenHeads.load(folder, stack), ChosenHeads.load(mini, stack)
    assert found is not None and shipped is not None and set(found.heads) & set(shipped.heads)


def test_a_model_in_which_nothing_follows_gets_no_file(
    s2pro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, texts = linked(s2pro, tmp_path), tmp_path / "texts"
    texts.write_text("A strange noise.\n")
    assert main([str(folder), "--texts", str(texts), "--device", "cpu"]) == 1
    assert not (folder / "alignment.json").exists() and "no head reaches" in capsys.readouterr().err


@pytest.fixture(scope="module")
def mini() -> Loaded:
    return load_model(resolve("mini").folder, "mini", "cpu", "float32", None)


def test_the_mini_says_where_in_its_text_it_is(mini: Loaded) -> None:
    (frames,) = speak(mini, [TEXT])
    at = [frame.text_at for frame in frames]
    assert at == sorted(at), "on a plain sentence nothing has to be taken back"  # type: ignore[type-var]
    assert at[0] is not None and at[0] <= 3 and at[-1] is not None and at[-1] >= TEXT.index("wall")
    assert len(set(at)) > 20

"""The README's table of figures: rendered from an evaluation, never written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import engine.evaluate
from engine.evaluate.figures import BEGIN, END, FiguresError, check_weights, exchanged, main, markdown
from engine.evaluate.report import Row, json_line
from engine.evaluate.weights import weights_sha256

FIGURES = Path(engine.evaluate.__file__).parent / "mini.json"
README = Path(engine.evaluate.__file__).parents[2] / "README.md"


def figures() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIGURES.read_text(encoding="utf-8"))
    return found


def test_the_readme_shows_the_last_evaluation() -> None:
    text = README.read_text(encoding="utf-8")
    assert exchanged(text, markdown(figures())) == text


def test_the_figures_are_of_the_weights_that_are_shipped() -> None:
    """Fails when the mini was trained anew and not measured: `make evaluate`."""
    check_weights(figures())


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ({"weights": "0" * 64}, "figures of the weights 000000000000; the mini now has"),
        ({}, "figures of unnamed weights"),
    ],
)
def test_figures_of_other_weights_are_refused(
    weights: dict[str, str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = figures()
    del found["conditions"]["weights"]
    found["conditions"] |= weights
    (tmp_path / "old.json").write_text(json.dumps(found))
    (tmp_path / "text.md").write_text(f"{BEGIN}{END}")
    assert main([str(tmp_path / "old.json"), str(tmp_path / "text.md")]) == 1
    assert told in capsys.readouterr().err
    assert (tmp_path / "text.md").read_text() == f"{BEGIN}{END}"


def test_figures_of_another_checkpoint_are_taken_as_they_are() -> None:
    found = figures()
    found["conditions"] |= {"checkpoint": "somebody/model", "weights": "0" * 64}
    check_weights(found)


def test_every_byte_of_the_weights_counts_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    before = weights_sha256(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert weights_sha256(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes(bytes(999) + b"\1")
    changed = weights_sha256(tmp_path)
    assert changed != before
    (tmp_path / "codec.pth").write_bytes(b"")
    assert weights_sha256(tmp_path) not in (before, changed)


def test_a_folder_without_weights_has_no_fingerprint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        weights_sha256(tmp_path)


def test_of_several_figures_the_worst_is_shown_and_what_failed_is_bold() -> None:
    found = figures()
    found["tag_slow"], found["failed"] = 0.5, ["tag_slow"]
    (line,) = [line for line in markdown(found).splitlines() if "tags)" in line]
    assert line.startswith(
        "| a tag moves its quantity the right way (the weakest of 12 tags) | **0.500** | at least 0.95 |"
    )
    targets = len(found["targets"])
    assert f"{targets - 1} of {targets} targets reached" in markdown(found)


def test_an_evaluation_writes_what_the_table_needs() -> None:
    groups = {"A": [Row("a", "", 1.5, 0.2, at_most=True, teacher=0.1), Row("b", "", 0.5)]}
    line = json.loads(json_line(groups, {"quick": False}))
    assert line == {
        "a": 1.0, "b": 0.5, "failed": ["a"], "targets": {"a": 0.2}, "teacher": {"a": 0.1}, "conditions": {"quick": False}
    }  # fmt: skip


def test_another_files_numbers_are_no_figures() -> None:
    with pytest.raises(FiguresError, match="these are no figures"):
        markdown({"clone": 1.0})


def test_a_table_is_exchanged_in_its_place(tmp_path: Path) -> None:
    document = tmp_path / "text.md"
    document.write_text(f"before\n{BEGIN}\nchanged since\n{END}\nafter\n")
    assert main([str(FIGURES), str(document)]) == 0
    text = document.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| | model |") and text.endswith(f"minutes.\n{END}\nafter\n")
    assert "changed since" not in text


@pytest.mark.parametrize("text", ["nothing", BEGIN, f"{END} {BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_text_without_a_place_for_it_is_left_alone(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "text.md"
    document.write_text(text)
    assert main([str(FIGURES), str(document)]) == 1
    assert "once, in this order" in capsys.readouterr().err
    assert document.read_text() == text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"conditions": {**figures()["conditions"], "quick": True}}, "a quick run"),
        ({"clone": None}, "no figure clone; was it a run with --only?"),
    ],
)
def test_a_run_that_was_not_the_whole_one_is_refused(
    change: dict[str, Any], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "part.json").write_text(json.dumps(figures() | change))
    (tmp_path / "text.md").write_text(f"{BEGIN}{END}")
    assert main([str(tmp_path / "part.json"), str(tmp_path / "text.md")]) == 1
    assert told in capsys.readouterr().err
    assert (tmp_path / "text.md").read_text() == f"{BEGIN}{END}"

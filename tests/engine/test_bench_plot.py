"""What a step takes, as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import bench, bench_plot

matplotlib = pytest.importorskip("matplotlib", reason="the picture needs the optional extra `train`")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "result.json"
    load = ["--random-weights", "tiny", "--device", "cpu", "--history", "50", "--prefix", "50"]
    assert bench.main([*load, "--streams", "1", "2", "--steps", "2", "--parts", "pieces", "--json", str(path)]) == 0
    return path


def test_every_piece_the_roof_and_the_length_of_a_frame_are_in_the_picture(result: Path, tmp_path: Path) -> None:
    picture = tmp_path / "step.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # text stays text
        assert bench_plot.main([str(result), str(picture)]) == 0
    drawn = picture.read_text()
    for name in (*(name for _, name, _ in bench_plot.PIECES), "roof of a step", "a frame lasts 16.0 ms", "tiny on cpu"):
        assert name in drawn, name


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("nothing", "cannot be drawn"),
        ("[1]", "is no result of engine.bench"),
        ('{"pieces": [{}]}', "is no result of engine.bench"),
        ('{"codec": []}', "has no `pieces`"),
    ],
)
def test_what_is_no_result_is_told_in_words(
    content: str | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "result.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SystemExit):
        bench_plot.main([str(path), str(tmp_path / "step.png")])
    assert told in capsys.readouterr().err


def test_a_kind_of_picture_that_nobody_knows_is_told_in_words(
    result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench_plot.main([str(result), str(tmp_path / "step.nothing")])
    assert "'nothing' is not supported" in capsys.readouterr().err

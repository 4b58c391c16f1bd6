from __future__ import annotations

from pathlib import Path

import pytest

from engine.codec_identity import codec_id


def folder(place: Path, weights: bytes, sizes: str | None = None, name: str = "codec.safetensors") -> Path:
    place.mkdir()
    (place / name).write_bytes(weights)
    if sizes is not None:
        (place / "codec.json").write_text(sizes)
    return place


def test_the_same_codec_has_one_name_wherever_it_lies(tmp_path: Path) -> None:
    first = codec_id(folder(tmp_path / "a", b"weights", "{}"))
    assert first == codec_id(folder(tmp_path / "b", b"weights", "{}"))
    assert len(first) == 16 and int(first, 16) >= 0


def test_other_weights_other_sizes_or_another_file_are_another_codec(tmp_path: Path) -> None:
    made = [
        folder(tmp_path / "a", b"weights"),
        folder(tmp_path / "b", b"weighty"),
        folder(tmp_path / "c", b"weights", "{}"),
        folder(tmp_path / "d", b"weights", "{ }"),
        folder(tmp_path / "e", b"weights", name="codec.pth"),
    ]
    assert len({codec_id(place) for place in made}) == len(made)


@pytest.mark.parametrize("at", [0, 12_345_678, 24_999_999])
def test_of_a_large_file_enough_is_read_to_tell_a_training_run_apart(tmp_path: Path, at: int) -> None:
    """A run changes nearly every byte; here one stretch as long as a small layer does."""
    weights = bytearray(25_000_000)
    before = codec_id(folder(tmp_path / "a", bytes(weights)))
    start = max(0, at - 100_000)
    weights[start : start + 200_000] = b"\1" * len(weights[start : start + 200_000])
    assert codec_id(folder(tmp_path / "b", bytes(weights))) != before


def test_a_folder_without_a_codec_has_no_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"codec\.safetensors"):
        codec_id(tmp_path)

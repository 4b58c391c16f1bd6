from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from engine.api import Reference
from realtime.voices import VoiceNotFound, VoiceStore, VoiceUnusable


def reference(text: str = "Hello.", value: int = 3, frames: int = 4) -> Reference:
    return Reference(text, np.full((8, frames), value, dtype=np.int16))


def test_the_default_voice_is_the_models_own() -> None:
    store = VoiceStore(None, 8)
    assert store.get(None).references == store.get("default").references == ()
    assert store.get(None).id == "default" and store.names() == ["default"]


def test_a_voice_that_was_added_comes_back_as_it_was(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path / "voices", 8)
    store.add("anna", [reference("One."), reference("Zwei, <|speaker:1|>ja.", 5)], [b"a", b"b"])
    voice = VoiceStore(tmp_path / "voices", 8).get("anna")
    assert [known.text for known in voice.references] == ["One.", "Zwei, <|speaker:1|>ja."]
    assert [known.codes.tolist() for known in voice.references] == [[[3] * 4] * 8, [[5] * 4] * 8]
    assert voice.references[0].codes.dtype == np.int16
    assert store.names() == ["default", "anna"]


def test_the_id_changes_with_what_the_voice_says(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path, 8)
    ids = [
        store.add("anna", [made], [b"a"]).id
        for made in (reference(), reference(value=4), reference("Other."), reference(frames=5))
    ]
    assert len(set(ids)) == 4
    assert store.add("anna", [reference()], [b"b"]).id == ids[0], "the engine's cache knows this voice"


def test_a_file_that_is_replaced_while_the_server_runs_is_read_again(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path, 8)
    store.add("anna", [reference()], [b"a"])
    before = store.get("anna")
    assert store.get("anna") is before
    VoiceStore(tmp_path, 8).add("anna", [reference(frames=9)], [b"a"])
    assert store.get("anna").references[0].codes.shape == (8, 9)


@pytest.mark.parametrize("name", ["nobody", "../anna", "a/b", "", ".", "ä", "a" * 65, "anna\0"])
def test_a_name_that_is_no_voice_is_not_found(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "voices"
    VoiceStore(folder, 8).add("anna", [reference()], [b"a"])
    VoiceStore(tmp_path, 8).add("anna", [reference()], [b"a"])
    with pytest.raises(VoiceNotFound):
        VoiceStore(folder, 8).get(name)


def test_a_server_without_a_folder_has_no_other_voice() -> None:
    with pytest.raises(VoiceNotFound, match="anna"):
        VoiceStore(None, 8).get("anna")
    with pytest.raises(VoiceUnusable, match="no folder"):
        VoiceStore(None, 8).add("anna", [reference()], [b"a"])


def test_a_voice_of_another_model_is_unusable(tmp_path: Path) -> None:
    VoiceStore(tmp_path, 8).add("anna", [reference()], [b"a"])
    with pytest.raises(VoiceUnusable, match=r"\[8, 4\], not \[10, T\]"):
        VoiceStore(tmp_path, 10).get("anna")


@pytest.mark.parametrize("name", ["default", "a b", "../x"])
def test_a_voice_needs_a_name_of_its_own(tmp_path: Path, name: str) -> None:
    with pytest.raises(VoiceUnusable, match="a name is"):
        VoiceStore(tmp_path, 8).add(name, [reference()], [b"a"])


@pytest.mark.parametrize(
    "references",
    [
        [],
        [reference(frames=0)],
        [Reference("x", np.zeros((3, 4), np.int16))],
        [reference(value=-1)],
        [reference()] * 17,
    ],
)
def test_codes_that_cannot_be_a_voice_are_refused(tmp_path: Path, references: list[Reference]) -> None:
    with pytest.raises(VoiceUnusable):
        VoiceStore(tmp_path, 8).add("anna", references, [b"a"] * len(references))
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_is_unusable_and_runs_no_code(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "ran"),)

    np.savez(tmp_path / "bomb.npz", codes_0=np.array([Bomb()], dtype=object), text_0=np.array("x"))
    (tmp_path / "text.npz").write_text("not a zip")
    np.savez(tmp_path / "partial.npz", codes_0=np.zeros((8, 2), np.int16))
    store = VoiceStore(tmp_path, 8)
    for name in ("bomb", "text", "partial"):
        with pytest.raises(VoiceUnusable, match=name):
            store.get(name)
    assert not (tmp_path / "ran").exists()


def test_nothing_is_left_of_a_voice_that_could_not_be_written(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path, 8)
    store.add("anna", [reference()], [b"a"])
    assert [file.name for file in tmp_path.iterdir()] == ["anna.npz"]

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realtime.voice_folder import NewSource, VoiceFolder, VoiceNotFound, VoiceUnusable

CODES = np.full((8, 4), 3, np.int16)


def files(folder: Path) -> list[str]:
    """Everything but the lock."""
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"
    )


def names_of(folder: Path, kind: str) -> list[str]:
    return [name for name in files(folder) if name.startswith(kind)]


def test_what_is_added_is_what_is_read(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path / "new" / "voices")
    folder.add("anna", [NewSource(b"one", "Eins."), NewSource(b"two", "<|speaker:1|>Zwei „so“.")])
    sources = VoiceFolder(tmp_path / "new" / "voices").sources("anna")
    assert [source.text for source in sources] == ["Eins.", "<|speaker:1|>Zwei „so“."]
    assert [folder.recording(source.recording).read_bytes() for source in sources] == [b"one", b"two"]
    assert folder.names() == ["anna"]


def test_appending_keeps_what_is_there(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    folder.add("duo", [NewSource(b"one", "Eins.")])
    folder.add("duo", [NewSource(b"two", "Zwei.")], append=True)
    assert [source.text for source in folder.sources("duo")] == ["Eins.", "Zwei."]
    folder.add("duo", [NewSource(b"three", "Drei.")])
    assert [source.text for source in folder.sources("duo")] == ["Drei."]
    assert len(names_of(tmp_path, "recordings/")) == 1, "what a replaced voice had is dropped"


def test_nothing_can_be_appended_to_nothing(tmp_path: Path) -> None:
    with pytest.raises(VoiceNotFound):
        VoiceFolder(tmp_path).add("duo", [NewSource(b"two", "Zwei.")], append=True)
    assert files(tmp_path) == []


def test_a_voice_has_a_bound(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    folder.add("choir", [NewSource(b"%d" % n, "La.") for n in range(16)])
    with pytest.raises(VoiceUnusable, match="17 references are not 1 to 16"):
        folder.add("choir", [NewSource(b"more", "La.")], append=True)
    assert len(folder.sources("choir")) == len(names_of(tmp_path, "recordings/")) == 16


@pytest.mark.parametrize("name", ["default", "", "a b", "../x", "ä", ".hidden", "a" * 65])
def test_a_name_that_cannot_be_is_refused_with_the_rule(tmp_path: Path, name: str) -> None:
    with pytest.raises(VoiceUnusable, match="a name is 1 to 64 letters"):
        VoiceFolder(tmp_path).add(name, [NewSource(b"one", "Eins.")])
    with pytest.raises(VoiceNotFound):
        VoiceFolder(tmp_path).remove(name)
    assert files(tmp_path) == []


def test_removing_a_voice_removes_what_no_other_voice_uses(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    folder.add("anna", [NewSource(b"shared", "Eins."), NewSource(b"own", "Zwei.")], [CODES, CODES], "codec-a")
    folder.add("bert", [NewSource(b"shared", "Eins.")])
    own = folder.sources("anna")[1].recording
    folder.keep_codes(own, "codec-b", CODES)
    folder.remove("anna")
    shared = folder.sources("bert")[0].recording
    assert files(tmp_path) == ["bert.json", f"codes/codec-a/{shared}.npy", f"recordings/{shared}"]
    folder.remove("bert")
    assert files(tmp_path) == []
    with pytest.raises(VoiceNotFound):
        folder.remove("bert")


def test_codes_come_back_as_they_were_and_only_for_their_codec(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    folder.add("anna", [NewSource(b"one", "Eins.")])
    (source,) = folder.sources("anna")
    assert folder.codes(source.recording, "codec-a") is None
    folder.keep_codes(source.recording, "codec-a", CODES)
    kept = folder.codes(source.recording, "codec-a")
    assert kept is not None and kept.dtype == np.int16 and (kept == CODES).all()
    assert folder.codes(source.recording, "codec-b") is None


def test_codes_that_come_after_their_recording_was_removed_are_not_kept(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    folder.add("anna", [NewSource(b"one", "Eins.")])
    (source,) = folder.sources("anna")
    folder.remove("anna")
    folder.keep_codes(source.recording, "codec-a", CODES)
    assert files(tmp_path) == []


class Bomb:
    """What an unpickler would run."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._place),)


def test_broken_codes_count_as_none_and_run_no_code(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    folder.add("anna", [NewSource(b"one", "Eins.")], [CODES], "codec-a")
    (path,) = (tmp_path / "codes" / "codec-a").iterdir()
    (source,) = folder.sources("anna")
    broken: list[Callable[[], Any]] = [
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(path.read_bytes()[:-3]),
        lambda: path.write_bytes(b"no array"),
        lambda: np.save(path, np.array([Bomb(tmp_path / "ran")], dtype=object)),
        lambda: np.save(path, -CODES),
        lambda: np.save(path, CODES.astype(np.float32)),
        lambda: np.save(path, CODES[0]),
    ]
    for spoil in broken:
        spoil()
        assert folder.codes(source.recording, "codec-a") is None
        np.save(path, CODES)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"references": []}',
        '{"references": [{"recording": "../../etc/passwd", "text": "x"}]}',
        '{"references": 3}',
        "\udcff",
    ],
)
def test_a_file_that_this_program_did_not_write_is_unusable(tmp_path: Path, text: str) -> None:
    (tmp_path / "odd.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    folder = VoiceFolder(tmp_path)
    with pytest.raises(VoiceUnusable, match="odd"):
        folder.sources("odd")
    assert folder.names() == ["odd"]
    folder.remove("odd")
    assert folder.names() == []


def test_a_folder_that_does_not_exist_has_no_voices(tmp_path: Path) -> None:
    assert VoiceFolder(tmp_path / "none").names() == VoiceFolder(None).names() == []
    with pytest.raises(VoiceUnusable, match="no folder"):
        VoiceFolder(None).add("anna", [NewSource(b"one", "Eins.")])


@pytest.mark.parametrize("nth", range(1, 5))
def test_a_disk_that_fails_leaves_all_or_nothing(tmp_path: Path, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two recordings and a voice are three files; the fourth rename never happens."""
    folder = VoiceFolder(tmp_path)
    folder.add("anna", [NewSource(b"old", "Alt.")])
    before, count, replace = files(tmp_path), 0, os.replace

    def failing(source: Any, target: Any) -> None:
        nonlocal count
        count += 1
        if count == nth:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", failing)
    new = [NewSource(b"one", "Eins."), NewSource(b"two", "Zwei.")]
    if nth <= 3:
        with pytest.raises(OSError, match="No space"):
            folder.add("anna", new)
        assert files(tmp_path) == before
    else:
        folder.add("anna", new)
        assert len(files(tmp_path)) == 3


def _add_and_remove(path: Path, name: str) -> None:
    folder = VoiceFolder(path)
    for turn in range(15):
        folder.add(name, [NewSource(b"shared", "Eins."), NewSource(b"%d" % turn, "Zwei.")], [CODES, CODES], "codec-a")
        folder.add("both", [NewSource(b"shared", name)])
    folder.remove(name)


def test_processes_that_change_one_folder_at_a_time_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_and_remove, args=(tmp_path, name)) for name in ("anna", "bert")]
    folder = VoiceFolder(tmp_path)
    folder.add("both", [NewSource(b"shared", "Eins.")])
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        (source,) = folder.sources("both")
        assert folder.recording(source.recording).read_bytes() == b"shared"
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert folder.names() == ["both"]
    assert len(names_of(tmp_path, "recordings/")) == 1 and not any("/." in name for name in files(tmp_path))


def test_whoever_reads_while_a_voice_is_written_sees_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    folder = VoiceFolder(tmp_path)
    texts = ["a" * 5_000, "b" * 50_000]
    folder.add("anna", [NewSource(b"one", texts[0])])
    done = threading.Event()

    def write() -> None:
        for turn in range(60):
            folder.add("anna", [NewSource(b"one", texts[turn % 2])])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert VoiceFolder(tmp_path).sources("anna")[0].text in texts
    writer.join()


def test_a_voice_is_as_private_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        VoiceFolder(tmp_path / "voices").add("anna", [NewSource(b"one", "Eins.")])
    finally:
        os.umask(before)
    (recording,) = (tmp_path / "voices" / "recordings").iterdir()
    assert recording.stat().st_mode & 0o777 == 0o640
    assert recording.read_bytes() == b"one"

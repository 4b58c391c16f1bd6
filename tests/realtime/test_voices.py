from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.api import Reference, Voice
from realtime.voice_folder import NewSource
from realtime.voices import KEPT_HELD, VoiceNotEncoded, VoiceNotFound, VoiceStore, VoiceUnusable


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
    store = VoiceStore(tmp_path, 8)
    with pytest.raises(VoiceUnusable):
        store.add("anna", references, [b"a"] * len(references))
    assert store.names() == ["default"] and not list(tmp_path.glob("*/*"))


def test_codes_of_another_codec_are_never_taken_for_this_ones(tmp_path: Path) -> None:
    VoiceStore(tmp_path, 8, "one").add("anna", [reference(value=3)], [b"a"])
    other = VoiceStore(tmp_path, 8, "two")
    with pytest.raises(VoiceNotEncoded, match="still being encoded"):
        other.get("anna")
    assert [source.text for source in other.missing("anna")] == ["Hello."]
    other.keep_codes(other.missing("anna")[0].recording, reference(value=5).codes)
    assert other.get("anna").references[0].codes[0, 0] == 5 and other.missing("anna") == ()
    assert VoiceStore(tmp_path, 8, "one").get("anna").references[0].codes[0, 0] == 3


def test_a_recording_that_two_voices_share_is_encoded_once(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path, 8)
    store.add("anna", [reference()], [b"a"])
    store.files.add("bert", [NewSource(b"a", "Hello, said otherwise.")])
    assert store.missing("bert") == ()
    assert (store.get("bert").references[0].codes == reference().codes).all()


def test_a_voice_that_is_replaced_stays_what_it_was_until_it_is_encoded(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path, 8)
    before = store.add("anna", [reference()], [b"a"])
    VoiceStore(tmp_path, 8).files.add("anna", [NewSource(b"b", "Other.")])
    assert store.get("anna") is before
    store.keep_codes(store.missing("anna")[0].recording, reference(value=9).codes)
    assert store.get("anna").references[0].text == "Other."


def test_a_voice_that_was_removed_is_gone_for_a_server_that_runs(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path, 8)
    store.add("anna", [reference()], [b"a"])
    VoiceStore(tmp_path, 8).files.remove("anna")
    with pytest.raises(VoiceNotFound):
        store.get("anna")


def test_the_default_voice_lacks_nothing(tmp_path: Path) -> None:
    assert VoiceStore(tmp_path, 8).missing("default") == ()


def test_a_voice_that_came_with_a_request_can_be_asked_for_and_is_in_no_list() -> None:
    store = VoiceStore(None, 8)
    name = store.hold(Voice("inline-1", (reference(),)))
    assert store.get(name).references[0].text == "Hello." and store.missing(name) == ()
    assert store.names() == ["default"] and store.meant(name, {}) == name


def test_of_voices_that_came_with_requests_the_longest_unused_go() -> None:
    store = VoiceStore(None, 8)
    store.hold(Voice("used"))
    for number in range(KEPT_HELD):
        store.get("used")
        store.hold(Voice(f"inline-{number}"))
    assert store.get("used").id == "used"
    with pytest.raises(VoiceNotFound):
        store.get("inline-0")


def test_a_name_of_another_vendor_means_a_voice_an_alias_or_the_default(tmp_path: Path) -> None:
    store = VoiceStore(tmp_path, 8)
    store.add("anna", [reference()], [b"a"])
    aliases = {"alloy": "anna", "anna": "elsewhere", "echo": "nobody"}
    names = ("anna", "alloy", "echo", "933563129e564b19a115bedd57b7406a", "../anna", "", "default", None)
    assert [store.meant(name, aliases) for name in names] == ["anna", "anna", None, None, None, None, None, None]

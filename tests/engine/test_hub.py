"""Models by name: the mini, a folder, and repositories of a hub on loopback that cuts, lies and refuses on request."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest

from engine import hub as hub_module
from engine import transfer
from engine.hub import (
    CorruptFile,
    HubUnreachable,
    IncompleteModel,
    LicenceNotAccepted,
    ModelNotFound,
    NoSpace,
    Progress,
    ResolvedModel,
    resolve,
)
from engine.model_files import FISH_AUDIO
from tests.engine.hub_server import GOOD_TOKEN, OTHER_TOKEN, Hub, HubFile

MIB = 1 << 20
REPO = "someone/voice"
WEIGHTS = random.Random(0).randbytes(5 * MIB + 123)
FILES = {
    "config.json": HubFile(b'{"model_type": "dual_ar"}'),
    "tokenizer.json": HubFile(b"{}"),
    "codec.pth": HubFile(b"codec weights", large=True),
    "model.safetensors": HubFile(WEIGHTS, large=True),
    "LICENSE.md": HubFile(b"Do what you like."),
    "README.md": HubFile(b"# A voice"),
    "samples/hello.wav": HubFile(b"RIFF", large=True),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        server.publish(REPO, FILES)
        yield server
    huggingface_hub.close_session()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fetch(
    hub: Hub, cache: Path, repo: str = REPO, revision: str | None = None, token: str | None = None
) -> ResolvedModel:
    return resolve(repo, revision, token, endpoint=hub.endpoint, cache=cache)


def partial_bytes(cache: Path) -> int:
    return sum(path.stat().st_size for path in cache.glob("*/blobs/*.incomplete"))


def interrupt_at(position: int) -> Callable[[Progress], None]:
    """What Ctrl-C does when so many bytes have come."""

    def progress(now: Progress) -> None:
        if now.done_bytes >= position:
            raise KeyboardInterrupt

    return progress


def test_a_repository_becomes_a_folder_with_the_files_that_the_engine_reads_and_the_licence(
    hub: Hub, cache: Path
) -> None:
    model = fetch(hub, cache)
    names = {path.name for path in model.folder.rglob("*")}
    assert names == {"config.json", "tokenizer.json", "codec.pth", "model.safetensors", "LICENSE.md"}
    assert (model.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert model.commit == hub.repos[REPO].refs["main"]


def test_where_a_repository_says_which_heads_follow_the_text_that_is_fetched_too(hub: Hub, cache: Path) -> None:
    hub.publish(REPO, FILES | {"alignment.json": HubFile(b"{}")})
    assert (fetch(hub, cache).folder / "alignment.json").is_file()


def test_a_second_resolve_fetches_nothing(hub: Hub, cache: Path) -> None:
    first = fetch(hub, cache)
    hub.requests.clear()
    assert fetch(hub, cache) == first
    assert [request.path for request in hub.requests] == [f"/api/models/{REPO}/revision/main"]


def test_a_cut_connection_is_taken_up_where_it_broke(hub: Hub, cache: Path) -> None:
    hub.faults.cut_after = {"model.safetensors": [3 * MIB, 10_000], "codec.pth": [4]}
    model = fetch(hub, cache)
    assert (model.folder / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [request.range for request in hub.gets("model.safetensors")]
    assert ranges == [None, f"bytes={3 * MIB}-", f"bytes={3 * MIB + 10_000}-"]
    assert sum(request.sent_bytes for request in hub.gets("model.safetensors")) == len(WEIGHTS)


def test_an_interrupted_download_goes_on_in_the_next_call(hub: Hub, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        resolve(REPO, progress=interrupt_at(3 * MIB), endpoint=hub.endpoint, cache=cache)
    kept = partial_bytes(cache)
    assert kept >= 2 * MIB
    hub.requests.clear()
    reports: list[Progress] = []
    model = resolve(REPO, progress=reports.append, endpoint=hub.endpoint, cache=cache)
    (request,) = hub.gets("model.safetensors")
    assert request.range == f"bytes={kept}-"
    assert request.sent_bytes == len(WEIGHTS) - kept
    assert reports[0].done_bytes > kept
    assert (model.folder / "model.safetensors").read_bytes() == WEIGHTS


def test_storage_that_ignores_ranges_is_read_from_the_start(hub: Hub, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        resolve(REPO, progress=interrupt_at(3 * MIB), endpoint=hub.endpoint, cache=cache)
    hub.faults.ignore_ranges = True
    assert (fetch(hub, cache).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_busy_storage_is_asked_again(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_RETRY_WAIT_S", 0.0)
    hub.faults.statuses = [503, 429, 500, 504]
    assert (fetch(hub, cache).folder / "config.json").is_file()
    assert not hub.faults.statuses


def test_storage_that_never_sends_a_byte_is_given_up(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        resolve(REPO, progress=interrupt_at(3 * MIB), endpoint=hub.endpoint, cache=cache)
    kept = partial_bytes(cache)
    monkeypatch.setattr(transfer, "_RETRY_WAIT_S", 0.0)
    hub.faults.empty = True
    with pytest.raises(HubUnreachable, match="sends no bytes"):
        fetch(hub, cache)
    assert partial_bytes(cache) == kept


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_never_gets_its_name_and_is_fetched_again(hub: Hub, cache: Path, name: str) -> None:
    blob = (fetch(hub, cache).folder / name).resolve()
    blob.unlink()
    hub.faults.damage = True
    with pytest.raises(CorruptFile, match=f"{name} arrived damaged"):
        fetch(hub, cache)
    assert not blob.exists() and partial_bytes(cache) == 0
    hub.faults.damage = False
    assert (fetch(hub, cache).folder / name).read_bytes() == FILES[name].content


def test_a_truncated_file_in_the_cache_is_fetched_again(hub: Hub, cache: Path) -> None:
    blob = (fetch(hub, cache).folder / "model.safetensors").resolve()
    os.truncate(blob, 100)
    assert (fetch(hub, cache).folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_gated_repository_without_a_token_says_where_to_accept_its_licence(hub: Hub, cache: Path) -> None:
    hub.repos[REPO].gated = True
    with pytest.raises(LicenceNotAccepted) as caught:
        fetch(hub, cache)
    assert f"https://huggingface.co/{REPO}" in str(caught.value)
    assert "--token" in str(caught.value) and "HF_TOKEN" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_token_whose_account_has_not_accepted_the_licence_is_told_apart(hub: Hub, cache: Path) -> None:
    hub.repos[REPO].gated = True
    with pytest.raises(LicenceNotAccepted, match=f"no access yet.*https://huggingface.co/{REPO}"):
        fetch(hub, cache, token=OTHER_TOKEN)


def test_a_token_opens_a_gated_repository_and_is_not_sent_to_the_storage(hub: Hub, cache: Path) -> None:
    hub.repos[REPO].gated = True
    assert (fetch(hub, cache, token=GOOD_TOKEN).folder / "model.safetensors").is_file()
    assert {request.token for request in hub.requests if not request.at_storage} == {GOOD_TOKEN}
    assert {request.token for request in hub.requests if request.at_storage} == {None}


def test_a_complete_copy_of_a_gated_repository_needs_no_token_again(hub: Hub, cache: Path) -> None:
    hub.repos[REPO].gated = True
    first = fetch(hub, cache, token=GOOD_TOKEN)
    assert fetch(hub, cache) == first


def test_a_token_that_the_hub_does_not_know_is_named_as_the_reason(hub: Hub, cache: Path) -> None:
    with pytest.raises(ModelNotFound, match="refuses this access token"):
        fetch(hub, cache, token="hf_expired")


@pytest.mark.parametrize("token", [None, GOOD_TOKEN])
def test_a_repository_that_is_not_there_is_said_so(hub: Hub, cache: Path, token: str | None) -> None:
    with pytest.raises(ModelNotFound, match="someone/typo: no such folder, and no such repository"):
        fetch(hub, cache, "someone/typo", token=token)


def test_a_private_repository_opens_with_its_token_only(hub: Hub, cache: Path) -> None:
    hub.repos[REPO].private = True
    with pytest.raises(ModelNotFound, match="--token"):
        fetch(hub, cache)
    assert fetch(hub, cache, token=GOOD_TOKEN).folder.is_dir()


def test_a_revision_selects_a_commit_by_branch_tag_or_hash(hub: Hub, cache: Path) -> None:
    old = hub.repos[REPO].refs["main"]
    hub.publish(REPO, FILES | {"config.json": HubFile(b'{"model_type": "newer"}')})
    assert b"dual_ar" in (fetch(hub, cache, revision=old).folder / "config.json").read_bytes()
    assert b"newer" in (fetch(hub, cache).folder / "config.json").read_bytes()
    assert len(hub.gets("model.safetensors")) == 1  # both commits share the file


def test_a_commit_that_is_complete_in_the_cache_is_used_without_asking(hub: Hub, cache: Path) -> None:
    commit = fetch(hub, cache).commit
    hub.requests.clear()
    fetch(hub, cache, revision=commit)
    assert hub.requests == []


def test_a_revision_that_is_not_there_is_said_so(hub: Hub, cache: Path) -> None:
    with pytest.raises(ModelNotFound, match="no revision 'v9'"):
        fetch(hub, cache, revision="v9")


@pytest.mark.parametrize("revision", ["../../../etc", "/etc", "", "a b"])
def test_a_revision_cannot_name_a_path_outside_the_cache(hub: Hub, cache: Path, revision: str) -> None:
    with pytest.raises(ModelNotFound, match="cannot be a revision"):
        fetch(hub, cache, revision=revision)


def test_a_download_that_does_not_fit_ends_before_the_first_byte_with_both_sizes(hub: Hub, cache: Path) -> None:
    huge = HubFile(b"", large=True, listed_size=10**18)
    hub.publish("someone/huge", FILES | {"model.safetensors": huge})
    with pytest.raises(NoSpace) as caught:
        fetch(hub, cache, "someone/huge")
    assert caught.value.needed_bytes >= 1.05e18
    assert 0 < caught.value.free_bytes == pytest.approx(shutil.disk_usage(cache.parent).free, rel=0.05)
    assert "1050000000.0 GB" in str(caught.value) and "are free" in str(caught.value)
    assert not any(request.at_storage for request in hub.requests)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_disk_that_fills_up_during_the_download_is_said_so(hub: Hub, cache: Path) -> None:
    folder = cache / "models--someone--voice" / "blobs"
    folder.mkdir(parents=True)
    (folder / f"{FILES['model.safetensors'].etag}.incomplete").symlink_to("/dev/full")
    with pytest.raises(NoSpace, match="are free"):
        fetch(hub, cache)


def test_without_the_hub_the_cached_copy_serves(hub: Hub, cache: Path, tmp_path: Path) -> None:
    first = fetch(hub, cache)
    assert resolve(REPO, endpoint="http://127.0.0.1:9", cache=cache) == first
    with pytest.raises(HubUnreachable, match=r"no complete copy in the cache, and http://127\.0\.0\.1:9"):
        resolve(REPO, endpoint="http://127.0.0.1:9", cache=tmp_path / "empty")


def test_an_interrupted_download_is_no_complete_copy_without_the_hub(hub: Hub, cache: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        resolve(REPO, progress=interrupt_at(3 * MIB), endpoint=hub.endpoint, cache=cache)
    with pytest.raises(HubUnreachable):
        resolve(REPO, endpoint="http://127.0.0.1:9", cache=cache)


def test_a_web_page_in_place_of_the_hub_is_recognised(hub: Hub, cache: Path) -> None:
    hub.faults.not_a_hub = True
    with pytest.raises(HubUnreachable, match="not a hub's"):
        fetch(hub, cache)


def test_a_repository_without_weights_names_what_is_missing(hub: Hub, cache: Path) -> None:
    hub.publish("someone/empty", {"config.json": FILES["config.json"]})
    with pytest.raises(IncompleteModel) as caught:
        fetch(hub, cache, "someone/empty")
    assert caught.value.missing == ("tokenizer.json", "model.safetensors", "codec.pth")


def test_sharded_weights_come_with_every_shard_that_the_index_names(hub: Hub, cache: Path) -> None:
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = json.dumps({"weight_map": {"a": shards[0], "b": shards[1]}}).encode()
    rest = {name: file for name, file in FILES.items() if name != "model.safetensors"}
    whole = (
        rest | {"model.safetensors.index.json": HubFile(index)} | {name: HubFile(b"w", large=True) for name in shards}
    )
    hub.publish("someone/sharded", whole)
    assert set(shards) < {path.name for path in fetch(hub, cache, "someone/sharded").folder.iterdir()}
    hub.publish("someone/sharded", {name: file for name, file in whole.items() if name != shards[1]})
    with pytest.raises(IncompleteModel, match=shards[1]):
        fetch(hub, cache, "someone/sharded")


def test_progress_counts_every_byte_of_what_was_missing(hub: Hub, cache: Path) -> None:
    reports: list[Progress] = []
    resolve(REPO, progress=reports.append, endpoint=hub.endpoint, cache=cache)
    total = sum(len(FILES[name].content) for name in FILES if name not in ("README.md", "samples/hello.wav"))
    done = [report.done_bytes for report in reports]
    assert done == sorted(done) and done[-1] == total
    assert {report.total_bytes for report in reports} == {total}
    assert str(reports[-1]) == "model.safetensors: 5.2 MB of 5.2 MB (100 %)"


def test_the_cache_is_the_one_that_huggingface_hub_uses(hub: Hub, cache: Path) -> None:
    ours = fetch(hub, cache).folder
    sent = sum(request.sent_bytes for request in hub.requests if request.at_storage)
    theirs = huggingface_hub.hf_hub_download(REPO, "model.safetensors", endpoint=hub.endpoint, cache_dir=cache)
    assert Path(theirs).samefile(ours / "model.safetensors")
    assert sum(request.sent_bytes for request in hub.requests if request.at_storage) == sent
    offline = huggingface_hub.snapshot_download(REPO, cache_dir=cache, local_files_only=True)
    assert Path(offline).samefile(ours)


def test_what_huggingface_hub_fetched_is_not_fetched_again(hub: Hub, cache: Path) -> None:
    huggingface_hub.hf_hub_download(REPO, "model.safetensors", endpoint=hub.endpoint, cache_dir=cache)
    hub.requests.clear()
    fetch(hub, cache)
    assert hub.gets("model.safetensors") == []


def test_hf_endpoint_and_hf_home_are_honoured(hub: Hub, tmp_path: Path) -> None:
    code = f"from engine.hub import resolve; print(resolve({REPO!r}).folder)"
    environment = os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": GOOD_TOKEN}
    environment = {name: value for name, value in environment.items() if name not in ("HF_HUB_CACHE", "HF_HUB_OFFLINE")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=180,
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home" / "hub")
    assert {request.token for request in hub.requests if REPO in request.path and not request.at_storage} == {
        GOOD_TOKEN
    }


def test_two_processes_at_once_fetch_a_file_once(hub: Hub, cache: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from engine.hub import resolve; "
        f"resolve({REPO!r}, endpoint={hub.endpoint!r}, cache=Path({str(cache)!r}))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) for _ in range(2)]
    assert [process.wait(timeout=180) for process in processes] == [0, 0]
    assert sum(request.sent_bytes for request in hub.gets("model.safetensors")) == len(WEIGHTS)


def test_a_part_that_another_process_completes_between_two_looks_is_no_error(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        resolve(REPO, progress=interrupt_at(3 * MIB), endpoint=hub.endpoint, cache=cache)
    look = Path.stat

    def last_look(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        found = look(path, follow_symlinks=follow_symlinks)
        if path.name.endswith(".incomplete"):
            path.unlink()
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", last_look)
        model = resolve(REPO, endpoint=hub.endpoint, cache=cache)
    assert (model.folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_file_that_others_link_again_is_never_gone(tmp_path: Path) -> None:
    blob, pointer = tmp_path / "blob", tmp_path / "snapshot" / "config.json"
    blob.write_text("{}")
    hub_module._link(blob, pointer)
    code = (
        "from pathlib import Path; from engine.hub import _link; "
        f"[_link(Path({str(blob)!r}), Path({str(pointer)!r})) for _ in range(2000)]"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2]) for _ in range(2)]
    while any(process.poll() is None for process in processes):
        assert pointer.is_file()
    assert [process.returncode for process in processes] == [0, 0]
    assert pointer.is_symlink() and pointer.read_text() == "{}"
    assert os.listdir(pointer.parent) == ["config.json"]


def complete_folder(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "codec.safetensors", "model.pth"):
        (folder / name).write_text("{}")
    return folder


def test_a_folder_is_itself(tmp_path: Path) -> None:
    folder = complete_folder(tmp_path / "model")
    assert resolve(str(folder)) == ResolvedModel(folder, str(folder), None)


def test_an_incomplete_folder_is_refused_with_the_names_of_what_is_missing(tmp_path: Path) -> None:
    folder = complete_folder(tmp_path / "model")
    (folder / "codec.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(IncompleteModel, match=r"missing: codec\.pth, model-1\.safetensors$"):
        resolve(str(folder))


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="has no revisions"):
        resolve(str(complete_folder(tmp_path / "model")), revision="main")


@pytest.mark.parametrize("name", ["minni", "/no/such/folder", "a/b/c", "", "https://huggingface.co/a/b"])
def test_a_name_that_can_be_nothing_is_refused_at_once(name: str) -> None:
    with pytest.raises(ModelNotFound, match="neither `mini`, nor a folder"):
        resolve(name)


S2_PRO = {"model_type": "fish_qwen3_omni", "text_config": {"dim": 2560, "n_layer": 36}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("LICENSE.md", "# FISH AUDIO RESEARCH\nLICENSE AGREEMENT"),
        ("license", "Under the Fish Audio Research License."),
        ("config.json", json.dumps(S2_PRO)),
    ],
)
def test_a_copy_of_the_fish_audio_weights_is_attributed(tmp_path: Path, name: str, text: str) -> None:
    folder = complete_folder(tmp_path / "model")
    (folder / name).write_text(text)
    assert resolve(str(folder)).attribution == FISH_AUDIO


def test_a_small_model_of_the_same_architecture_is_not_attributed(tmp_path: Path) -> None:
    folder = complete_folder(tmp_path / "model")
    (folder / "config.json").write_text(json.dumps(S2_PRO | {"text_config": {"dim": 384, "n_layer": 8}}))
    (folder / "LICENSE").write_text("Apache License")
    assert resolve(str(folder)).attribution is None


def test_a_repository_of_fish_audio_is_attributed(hub: Hub, cache: Path) -> None:
    hub.publish("fishaudio/s2-pro", FILES)
    attribution = fetch(hub, cache, "fishaudio/s2-pro").attribution
    assert attribution is not None
    assert attribution.notice == (
        "This model is licensed under the Fish Audio Research License, Copyright (c) 39 AI, INC. All Rights Reserved."
    )
    assert attribution.built_with == "Built with Fish Audio"

"""Where a model's files are: the mini in this package, a folder, or a Hugging Face repository kept in the hub's cache.

Knows what the hub answers and the layout of its cache. Does not know which files a model has (model_files.py), and reads
no environment: huggingface_hub itself takes HF_HOME, HF_ENDPOINT and a stored token from there.

The bytes are fetched here rather than by huggingface_hub's snapshot_download, because since 2.0 that drops a file's first
gigabytes when the process ends, and it checks only sizes. What is left in the cache is the same: blobs, snapshots, refs.
Source: https://huggingface.co/docs/huggingface_hub/guides/manage-cache.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import WeakFileLock, build_hf_headers  # type: ignore[attr-defined]

from engine.model_files import Attribution, attribution_of, missing_files, missing_names, wanted_names
from engine.transfer import Transfer, TransferStalled

log = logging.getLogger(__name__)

MINI = "mini"

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w./-]*")  # becomes a path below refs/
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # of a file in git: its blob's sha1; of a large file: its sha256

_SPACE_MARGIN = 1.05  # a disk filled to the last byte fails whoever writes next: logs, this cache's own folders


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A folder that has every file the engine reads."""

    folder: Path
    name: str  # as asked for
    attribution: Attribution | None  # to show with it, or None
    commit: str | None = None  # of the repository, 40 hex digits; None for the mini and for a folder


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a download is, over all files that were not in the cache when it began."""

    file: str  # the one being fetched
    done_bytes: int  # what an earlier, interrupted attempt left counts as done
    total_bytes: int

    def __str__(self) -> str:
        percent = 100 * self.done_bytes // max(self.total_bytes, 1)
        return f"{self.file}: {_gb(self.done_bytes)} of {_gb(self.total_bytes)} ({percent} %)"


class HubError(Exception):
    """Base of what resolve raises. The text is one line for the person who named the model."""


@dataclass(eq=False)
class ModelNotFound(HubError):
    """No such folder, repository or revision, or none that this token may see."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name}: {self.why}"


@dataclass(eq=False)
class IncompleteModel(HubError):
    """Files that the engine needs are not there."""

    where: str  # the folder or the repository
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where} is not a complete model; missing: {', '.join(self.missing)}"


@dataclass(eq=False)
class LicenceNotAccepted(HubError):
    """The repository is gated."""

    repo: str
    with_token: bool  # a token was sent, but its account was not let in

    def __str__(self) -> str:
        page = f"https://huggingface.co/{self.repo}"
        if self.with_token:
            return f"{self.repo}: the account of this token has no access yet; accept the licence at {page} with it, then try again"
        return f"{self.repo}: accept its licence at {page}, then pass your access token with --token or in HF_TOKEN"


@dataclass(eq=False)
class HubUnreachable(HubError):
    """The hub did not answer, or not as a hub does, and the cache has no complete copy."""

    repo: str
    endpoint: str
    detail: str

    def __str__(self) -> str:
        return f"{self.repo}: no complete copy in the cache, and {self.endpoint} cannot be used: {self.detail}"


@dataclass(eq=False)
class NoSpace(HubError):
    """The cache's disk cannot take what is still missing."""

    repo: str
    needed_bytes: int  # with the margin
    free_bytes: int
    folder: Path

    def __str__(self) -> str:
        needed, free = _gb(self.needed_bytes), _gb(self.free_bytes)
        return f"{self.repo} needs {needed} more in {self.folder}, where {free} are free"


@dataclass(eq=False)
class CorruptFile(HubError):
    """What arrived is not what the repository lists. It was deleted, so the next attempt fetches it again."""

    file: str
    expected: str  # hex digest
    found: str

    def __str__(self) -> str:
        return (
            f"{self.file} arrived damaged (checksum {self.found[:12]}, should be {self.expected[:12]}) and was deleted; "
            "run the command again to fetch it again"
        )


def resolve(
    name: str,
    revision: str | None = None,
    token: str | None = None,
    progress: Callable[[Progress], None] | None = None,
    *,
    endpoint: str | None = None,
    cache: Path | None = None,
) -> ResolvedModel:
    """The folder of the model called `name`: `mini`, an existing folder, or a repository `owner/name`, which is downloaded.

    `revision` is a branch, a tag or a commit, of a repository only. Without `token` huggingface_hub's own is used where it
    has one. `endpoint` and `cache` (the folder that holds `models--*`) default to huggingface_hub's. Blocks, for minutes
    when it downloads, and calls `progress` from this thread as bytes arrive, often; what `progress` raises ends the download,
    and like after any interruption the next call goes on where it stopped. Safe in several processes at once.

    Raises HubError: ModelNotFound, IncompleteModel, LicenceNotAccepted, HubUnreachable, NoSpace, CorruptFile.
    """
    folder = Path(__file__).with_name(MINI) if name == MINI else Path(name).expanduser()
    if name == MINI or (name and folder.is_dir()):
        if revision is not None:
            raise ModelNotFound(name, f"a folder has no revisions (asked for {revision}); leave that option out")
        if missing := missing_files(folder):
            raise IncompleteModel(str(folder), missing)
        return ResolvedModel(folder, name, None if name == MINI else attribution_of(folder))
    if not _REPO_ID.fullmatch(name):
        raise ModelNotFound(name, "neither `mini`, nor a folder, nor a Hugging Face repository (owner/name)")
    if revision is not None and not _REVISION.fullmatch(revision):
        raise ModelNotFound(name, f"{revision!r} cannot be a revision")
    repo = _Repo(
        id=name,
        revision=revision or constants.DEFAULT_REVISION,
        token=token,
        endpoint=(endpoint or constants.ENDPOINT).rstrip("/"),
        store=(cache or Path(constants.HF_HUB_CACHE)) / f"models--{name.replace('/', '--')}",
    )
    commit = _up_to_date(repo, progress or (lambda _: None))
    return ResolvedModel(repo.snapshot(commit), name, attribution_of(repo.snapshot(commit), name), commit)


@dataclass(frozen=True, slots=True)
class _RemoteFile:
    name: str
    size: int  # bytes
    etag: str  # _ETAG


@dataclass(frozen=True, slots=True)
class _Repo:
    """A repository at a revision, and its place in the cache."""

    id: str
    revision: str
    token: str | None
    endpoint: str
    store: Path  # cache/models--owner--name

    def snapshot(self, commit: str) -> Path:
        return self.store / "snapshots" / commit

    def blob(self, file: _RemoteFile) -> Path:
        return self.store / "blobs" / file.etag

    def partial(self, file: _RemoteFile) -> Path:
        return self.store / "blobs" / f"{file.etag}.incomplete"

    def lock(self, file: _RemoteFile) -> Path:
        return self.store.parent / ".locks" / self.store.name / f"{file.etag}.lock"

    def known_commit(self) -> str | None:
        """The commit that the revision had when it was last fetched."""
        ref = self.store / "refs" / self.revision
        if _COMMIT.fullmatch(self.revision):
            return self.revision
        return ref.read_text().strip() if ref.is_file() else None

    def has(self, file: _RemoteFile, commit: str) -> bool:
        """Whether it is in the cache; one of another size, which no intact copy has, is not."""
        places = (self.snapshot(commit) / file.name, self.blob(file))
        return any(_size(place) == file.size for place in places)

    def left_bytes(self, file: _RemoteFile) -> int:
        """What an interrupted attempt has not fetched."""
        return max(file.size - (_size(self.partial(file)) or 0), 0)


def _size(path: Path) -> int | None:
    """In bytes. None: no file is there. By one look: before a second one, another process may have given the file its final name."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _up_to_date(repo: _Repo, progress: Callable[[Progress], None]) -> str:
    """Bring the cache up to date and return the commit. Without the hub, what was fetched last time serves."""
    known = repo.known_commit()
    complete = known is not None and not missing_files(repo.snapshot(known))
    if known is not None and complete and known == repo.revision:
        return known  # a commit never changes
    try:
        commit, files = _listing(repo)
    except HubUnreachable as error:
        if known is None or not complete:
            raise
        log.warning("%s: going on with the copy in the cache: %s: %s", repo.id, repo.endpoint, error.detail)
        return known
    if missing := missing_names({file.name for file in files}):
        raise IncompleteModel(repo.id, missing)
    wanted = [file for file in files if not repo.has(file, commit)]
    _check_space(repo, wanted)
    total = sum(file.size for file in wanted)
    done = 0
    for file in sorted(wanted, key=lambda file: file.size):  # what is wrong with the small ones is said in seconds

        def report(position: int, file: _RemoteFile = file, before: int = done) -> None:
            progress(Progress(file.name, before + position, total))

        with _named_errors(repo):
            _fetch(repo, file, commit, report)
        done += file.size
    for file in files:
        _link(repo.blob(file), repo.snapshot(commit) / file.name)
    if missing := missing_files(repo.snapshot(commit)):  # a shard that the index names and the repository lacks
        raise IncompleteModel(repo.id, missing)
    if not _COMMIT.fullmatch(repo.revision):
        # Written last: offline, a revision names only what is complete.
        _write(repo.store / "refs" / repo.revision, commit)
    return commit


def _listing(repo: _Repo) -> tuple[str, list[_RemoteFile]]:
    """The revision's commit and those of its files that are wanted."""
    api = HfApi(endpoint=repo.endpoint, token=repo.token, library_name="parley")
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    try:
        with _named_errors(repo):
            info = api.model_info(repo.id, revision=repo.revision, files_metadata=True, timeout=timeout)
    except (ValueError, KeyError, TypeError) as error:  # a login page, or a proxy's error page, instead of JSON
        raise HubUnreachable(repo.id, repo.endpoint, "its answer is not a hub's") from error
    siblings = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    files = []
    for name in wanted_names(set(siblings)):
        entry = siblings[name]
        etag, size = (entry.lfs.sha256, entry.lfs.size) if entry.lfs else (entry.blob_id, entry.size)
        if size is None or not _ETAG.fullmatch(etag or ""):
            raise HubUnreachable(repo.id, repo.endpoint, f"it lists {name} without size and checksum")
        files.append(_RemoteFile(name, size, str(etag)))
    if not _COMMIT.fullmatch(info.sha or ""):
        raise HubUnreachable(repo.id, repo.endpoint, "it names no commit")
    return str(info.sha), files


def _check_space(repo: _Repo, wanted: list[_RemoteFile]) -> None:
    needed = int(_SPACE_MARGIN * sum(repo.left_bytes(file) for file in wanted))
    if needed > (free := _free_bytes(repo.store)):
        raise NoSpace(repo.id, needed, free, repo.store.parent)


def _free_bytes(folder: Path) -> int:
    """On the disk that `folder` is on, or would be."""
    return shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists())).free


def _fetch(repo: _Repo, file: _RemoteFile, commit: str, report: Callable[[int], None]) -> None:
    """Get one file into the cache: resumed where an attempt was interrupted, checked, and only then under its name."""
    blob, partial, lock = repo.blob(file), repo.partial(file), repo.lock(file)
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):  # the one that huggingface_hub takes, too
        if _size(blob) == file.size:
            return  # another process was faster
        if (_size(partial) or 0) > file.size:
            partial.unlink()
        try:
            with partial.open("ab+") as out:
                url = hf_hub_url(repo.id, file.name, revision=commit, endpoint=repo.endpoint)
                headers = build_hf_headers(token=repo.token, library_name="parley")
                transfer = Transfer(url, headers, file.size, file.etag, out, report)
                transfer.run()
                out.flush()
                os.fsync(out.fileno())  # else a power cut may leave an empty file under the checked name
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise NoSpace(repo.id, repo.left_bytes(file), _free_bytes(repo.store), repo.store.parent) from error
        if (found := transfer.checksum()) != file.etag:
            partial.unlink()
            raise CorruptFile(file.name, file.etag, found)
        os.replace(partial, blob)


def _link(blob: Path, pointer: Path) -> None:
    """Give a blob its name in a snapshot: by a link where the file system has them, else by moving it there.

    Another process that does the same, or looks, never finds the name gone.
    """
    if not blob.is_file():
        return  # a file system without links: an earlier call moved it
    pointer.parent.mkdir(parents=True, exist_ok=True)
    new = _unseen(pointer)
    new.unlink(missing_ok=True)
    try:
        new.symlink_to(os.path.relpath(blob, pointer.parent))
    except OSError:
        with suppress(FileNotFoundError):  # another process was faster
            os.replace(blob, pointer)
    else:
        os.replace(new, pointer)


def _write(path: Path, text: str) -> None:
    """So that a reader sees the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = _unseen(path)
    new.write_text(text)
    os.replace(new, path)


def _unseen(path: Path) -> Path:
    """A name beside it that is this process's alone."""
    return path.with_name(f".{path.name}.{os.getpid()}")


@contextmanager
def _named_errors(repo: _Repo) -> Iterator[None]:
    """Turn what the hub answered, or the network did, into what the person can do about it."""
    try:
        yield
    except GatedRepoError as error:
        sent = error.response.request.headers.get("authorization")
        raise LicenceNotAccepted(repo.id, with_token=sent is not None) from error
    except RevisionNotFoundError as error:
        raise ModelNotFound(repo.id, f"the repository has no revision {repo.revision!r}") from error
    except RepositoryNotFoundError as error:
        raise ModelNotFound(repo.id, _HIDDEN) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if "Invalid credentials" in error.response.headers.get("X-Error-Message", ""):
            raise ModelNotFound(repo.id, "the hub refuses this access token (--token or HF_TOKEN)") from error
        if status in (401, 403, 404):  # 401 without a code is how the hub hides what an anonymous caller may not see
            raise ModelNotFound(repo.id, _HIDDEN) from error
        raise HubUnreachable(repo.id, repo.endpoint, f"it answered {status}") from error
    except OfflineModeIsEnabled as error:
        raise HubUnreachable(repo.id, repo.endpoint, "HF_HUB_OFFLINE is set") from error
    except (httpx2.TransportError, TransferStalled) as error:
        raise HubUnreachable(repo.id, repo.endpoint, str(error) or type(error).__name__) from error


_HIDDEN = "no such folder, and no such repository on the hub unless it is private (then: --token or HF_TOKEN)"


def _gb(count: int) -> str:
    """Bytes for a person: two digits that matter, decimal as disks are sold."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"

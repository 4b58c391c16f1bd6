"""A folder of voices on disk: recordings with their transcripts, and codes that were made of them.

    <name>.json                  a voice: its references in order, each a recording's hash and what is said in it
    recordings/<sha256>          the recording's file, as it was given
    codes/<codec>/<sha256>.npy   int16 [K, T]: that recording through that codec

Knows names, files and what makes two recordings the same. Does not know audio, models or who may use which voice. Several processes may
use one folder at a time: a file appears whole or not at all, and whoever changes the folder holds its lock.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np

from engine.api import Codes

DEFAULT: Final = "default"  # the model's own voice, which has no file
MAX_REFERENCES: Final = 16
NAME_RULE: Final = "a name is 1 to 64 letters, digits, - and _, and not `default`"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # part of a path and of URLs
_DIGEST = re.compile(r"[0-9a-f]{64}")
_CODEC = re.compile(r"[A-Za-z0-9-]{1,64}")


@dataclass
class VoiceNotFound(Exception):
    """No voice of this name."""

    name: str

    def __str__(self) -> str:
        return f"there is no voice {self.name!r}"


@dataclass
class VoiceUnusable(Exception):
    """There is such a file, but it is not a voice for the loaded model; or no such voice can be."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"voice {self.name!r} cannot be used: {self.why}"


@dataclass(frozen=True, slots=True)
class Source:
    """One reference of a voice, as it is stored."""

    recording: str  # SHA-256 of the audio file, hexadecimal
    text: str  # what is said in it


@dataclass(frozen=True, slots=True)
class NewSource:
    """One reference to be stored."""

    audio: bytes  # a file of a format that the server can read
    text: str


Version = tuple[int, int, int]  # of a file: inode, time of its last change in ns, size


class VoiceFolder:
    """The voices below `path`, which is made when the first one is added. `path` None: there are none, and none can be added."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Every voice of the folder, sorted; one that cannot be read included."""
        files = self.path.glob("*.json") if self.path is not None and self.path.is_dir() else ()
        return sorted(file.stem for file in files if is_name(file.stem))

    def version(self, name: str) -> Version:
        """Changes whenever the voice does. Raises VoiceNotFound."""
        if self.path is None or not is_name(name):
            raise VoiceNotFound(name)
        try:
            stat = (self.path / f"{name}.json").stat()
        except OSError:
            raise VoiceNotFound(name) from None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size

    def sources(self, name: str) -> tuple[Source, ...]:
        """The references of a voice, in order. Raises VoiceNotFound, VoiceUnusable."""
        self.version(name)
        assert self.path is not None, "it has voices"
        try:
            stored = json.loads((self.path / f"{name}.json").read_text(encoding="utf-8"))
            sources = tuple(Source(str(one["recording"]), str(one["text"])) for one in stored["references"])
        except FileNotFoundError:
            raise VoiceNotFound(name) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise VoiceUnusable(name, f"{type(error).__name__} while reading it") from error
        if not 1 <= len(sources) <= MAX_REFERENCES or not all(_DIGEST.fullmatch(one.recording) for one in sources):
            raise VoiceUnusable(name, "its file is not one that this program wrote")
        return sources

    def recording(self, digest: str) -> Path:
        """Where the recording of a source lies."""
        assert self.path is not None and _DIGEST.fullmatch(digest), "a source of a voice"
        return self.path / "recordings" / digest

    def codes(self, digest: str, codec_id: str) -> Codes | None:
        """Codes [K, T] of a recording through a codec; None: not made yet. A file that is broken counts as none."""
        try:
            codes = np.load(self._codes(digest, codec_id), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        good = isinstance(codes, np.ndarray) and codes.ndim == 2 and codes.dtype == np.int16 and codes.size
        return codes if good and codes.min() >= 0 else None

    def keep_codes(self, digest: str, codec_id: str, codes: Codes) -> None:
        """Remember what a recording became. Nothing is kept of one that was removed meanwhile. Raises OSError."""
        with self._locked():
            if self.recording(digest).is_file():
                self._write_codes(digest, codec_id, codes)

    def add(
        self, name: str, new: Sequence[NewSource], codes: Sequence[Codes] = (), codec_id: str = "", append: bool = False
    ) -> None:
        """Write a voice, in place of one of the same name, or behind what that one has.

        `codes`, if given: of each of `new`, through the codec `codec_id`.

        Raises VoiceUnusable for a name that cannot be or too many references, VoiceNotFound where there is nothing to append to, OSError
        where the folder cannot be written. Nothing is stored then.
        """
        if self.path is None:
            raise VoiceUnusable(name, "this server has no folder of voices")
        if not is_name(name):
            raise VoiceUnusable(name, NAME_RULE)
        added = tuple(Source(hashlib.sha256(one.audio).hexdigest(), one.text) for one in new)
        with self._locked():
            before = self._sources_or_none(name)
            sources = (*(self.sources(name) if append else ()), *added)
            if not 1 <= len(sources) <= MAX_REFERENCES:
                raise VoiceUnusable(name, f"{len(sources)} references are not 1 to {MAX_REFERENCES}")
            try:
                self._store(name, sources, new, codes, codec_id)
            except BaseException:
                self._drop(added)  # the voice, if there was one, still has what it had
                raise
            self._drop(before)

    def _store(
        self, name: str, sources: Sequence[Source], new: Sequence[NewSource], codes: Sequence[Codes], codec_id: str
    ) -> None:
        """The voice comes last: a reader that finds it finds its recordings."""
        assert self.path is not None, "checked by the caller"
        for index, (source, one) in enumerate(zip(sources[-len(new) :], new, strict=True)):
            if not self.recording(source.recording).is_file():
                self._write(self.recording(source.recording), one.audio)
            if codes:
                self._write_codes(source.recording, codec_id, codes[index])
        text = json.dumps({"references": [asdict(source) for source in sources]}, ensure_ascii=False, indent=1)
        self._write(self.path / f"{name}.json", text.encode())

    def remove(self, name: str) -> None:
        """Delete a voice, and its recordings where no other voice uses them. Raises VoiceNotFound, OSError."""
        self.version(name)
        assert self.path is not None, "it has voices"
        with self._locked():
            before = self._sources_or_none(name)
            (self.path / f"{name}.json").unlink(missing_ok=True)
            self._drop(before)

    def _sources_or_none(self, name: str) -> tuple[Source, ...]:
        """A broken file holds no recordings that we could know of."""
        try:
            return self.sources(name)
        except (VoiceNotFound, VoiceUnusable):
            return ()

    def _drop(self, sources: Sequence[Source]) -> None:
        """Delete those of the recordings that no voice uses, and what was made of them."""
        assert self.path is not None, "it has voices"
        used = {source.recording for name in self.names() for source in self._sources_or_none(name)}
        for digest in {source.recording for source in sources} - used:
            self.recording(digest).unlink(missing_ok=True)
            for codes in (self.path / "codes").glob(f"*/{digest}.npy"):
                codes.unlink(missing_ok=True)

    def _codes(self, digest: str, codec_id: str) -> Path:
        assert self.path is not None and _DIGEST.fullmatch(digest) and _CODEC.fullmatch(codec_id), "names of files"
        return self.path / "codes" / codec_id / f"{digest}.npy"

    def _write_codes(self, digest: str, codec_id: str, codes: Codes) -> None:
        place = self._codes(digest, codec_id)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = _part(place)
        with _whole(part, place), part.open("xb") as file:
            np.save(file, codes.astype(np.int16))

    def _write(self, place: Path, data: bytes) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        part = _part(place)
        with _whole(part, place), part.open("xb") as file:
            file.write(data)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time changes the folder; the lock goes with the process that holds it."""
        assert self.path is not None, "checked by the caller"
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def is_name(name: str) -> bool:
    """Whether a voice may be called so."""
    return name != DEFAULT and _NAME.fullmatch(name) is not None


def _part(place: Path) -> Path:
    """A name that no reader looks at, in the same file system."""
    return place.with_name(f".{place.name}.{secrets.token_hex(4)}")


@contextmanager
def _whole(part: Path, place: Path) -> Iterator[None]:
    """What is written to `part` inside becomes `place`, or nothing."""
    try:
        yield
        os.replace(part, place)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise

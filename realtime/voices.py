"""Voices that this server can speak with: a folder of recordings that were encoded once.

Knows names, files and what makes two voices the same. Does not know audio, models or who may use which voice. A voice is one file
`<name>.npz` without pickled objects: for reference i, `codes_i` int16 [K, T] and `text_i`, its transcript; `digest`, the SHA-256 of the
recordings it was made from. The voice `default` has no reference: it is the model's own.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from engine.api import Reference, Voice

DEFAULT: Final = "default"
MAX_REFERENCES: Final = 16
# A name is part of a path and of URLs.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass
class VoiceNotFound(Exception):
    """No voice of this name."""

    name: str

    def __str__(self) -> str:
        return f"there is no voice {self.name!r}"


@dataclass
class VoiceUnusable(Exception):
    """There is such a file, but it is not a voice for the loaded model."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"voice {self.name!r} cannot be used: {self.why}"


class VoiceStore:
    """The voices in `folder` for a model with so many `codebooks`. `folder` None: only `default`.

    Files are looked at when a voice is asked for, so that one added while the server runs is found, and kept while they do not change.
    """

    def __init__(self, folder: Path | None, codebooks: int) -> None:
        self._folder = folder
        self._codebooks = codebooks
        self._kept: dict[str, tuple[tuple[int, int], Voice]] = {}  # name -> (mtime in ns, size), voice

    def names(self) -> list[str]:
        """Every voice, `default` first."""
        files = sorted(self._folder.glob("*.npz")) if self._folder is not None and self._folder.is_dir() else []
        return [DEFAULT, *(file.stem for file in files if file.stem != DEFAULT and _NAME.fullmatch(file.stem))]

    def get(self, name: str | None) -> Voice:
        """The voice `name`; None is `default`. Raises VoiceNotFound, VoiceUnusable."""
        if name is None or name == DEFAULT:
            return Voice(DEFAULT)
        if self._folder is None or not _NAME.fullmatch(name):
            raise VoiceNotFound(name)
        path = self._folder / f"{name}.npz"
        try:
            stat = path.stat()
        except OSError:
            raise VoiceNotFound(name) from None
        version = (stat.st_mtime_ns, stat.st_size)
        kept = self._kept.get(name)
        if kept is None or kept[0] != version:
            kept = (version, self._read(name, path))
            self._kept[name] = kept
        return kept[1]

    def add(self, name: str, references: Sequence[Reference], recordings: Sequence[bytes]) -> Voice:
        """Write a voice, in place of one of the same name. `recordings`: the bytes of each reference's audio file.

        Raises VoiceUnusable for a name or codes that cannot be, OSError where the folder cannot be written.
        """
        if self._folder is None:
            raise VoiceUnusable(name, "this server has no folder of voices")
        if name == DEFAULT or not _NAME.fullmatch(name):
            raise VoiceUnusable(name, "a name is 1 to 64 letters, digits, - and _, and not `default`")
        assert len(references) == len(recordings), "one recording a reference"
        self._check(name, references)
        arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
            "digest": np.array(hashlib.sha256(b"".join(recordings)).hexdigest())
        }
        for index, reference in enumerate(references):
            arrays[f"codes_{index}"] = reference.codes.astype(np.int16)
            arrays[f"text_{index}"] = np.array(reference.text)
        self._folder.mkdir(parents=True, exist_ok=True)
        # A reader sees the old file or the new one, never half of it.
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".", suffix=".npz", delete=False) as file:
            save: Callable[..., None] = np.savez_compressed  # its stub takes every keyword for allow_pickle
            save(file, **arrays)
        os.replace(file.name, self._folder / f"{name}.npz")
        return self.get(name)

    def _read(self, name: str, path: Path) -> Voice:
        try:
            with np.load(path, allow_pickle=False) as file:
                count = sum(key.startswith("codes_") for key in file.files)
                references = tuple(
                    Reference(str(file[f"text_{index}"]), file[f"codes_{index}"]) for index in range(count)
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise VoiceUnusable(name, f"{type(error).__name__} while reading it") from error
        self._check(name, references)
        return Voice(f"{name}-{_digest(references)}", references)

    def _check(self, name: str, references: Sequence[Reference]) -> None:
        if not 1 <= len(references) <= MAX_REFERENCES:
            raise VoiceUnusable(name, f"{len(references)} references are not 1 to {MAX_REFERENCES}")
        for index, reference in enumerate(references):
            codes = reference.codes
            if codes.ndim != 2 or codes.shape[0] != self._codebooks or not codes.shape[1]:
                raise VoiceUnusable(
                    name, f"reference {index} has codes {list(codes.shape)}, not [{self._codebooks}, T]"
                )
            if codes.dtype.kind not in "iu" or codes.min() < 0:
                raise VoiceUnusable(name, f"reference {index} has codes that are no indices")


def _digest(references: Sequence[Reference]) -> str:
    """What the engine's cache may go by: equal exactly when text and codes are."""
    digest = hashlib.sha256()
    for reference in references:
        text = reference.text.encode()
        digest.update(f"{len(text)}/{reference.codes.shape}/".encode() + text)
        digest.update(np.ascontiguousarray(reference.codes, dtype="<i2").tobytes())
    return digest.hexdigest()[:16]

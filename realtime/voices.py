"""Voices that this server can speak with: a folder of recordings, as the loaded model hears them.

Knows which of a folder's codes are the loaded model's, and what makes two voices the same. Does not know audio or how codes are made
(`realtime.voice_encoding`), nor who may use which voice. The voice `default` has no reference: it is the model's own.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from engine.api import Codes, Reference, Voice
from realtime.loudness import REFERENCE_LUFS
from realtime.voice_folder import (
    DEFAULT,
    MAX_REFERENCES,
    NewSource,
    Source,
    Version,
    VoiceFolder,
    VoiceNotFound,
    VoiceUnusable,
)

__all__ = ["DEFAULT", "MAX_REFERENCES", "VoiceNotEncoded", "VoiceNotFound", "VoiceStore", "VoiceUnusable"]


KEPT_HELD: Final = 256  # voices that came with requests


@dataclass
class VoiceNotEncoded(VoiceUnusable):
    """There are recordings of this voice, and no codes of them for the loaded model yet. The server makes them when it is idle."""

    why: str = "its recordings are still being encoded for this model; try again in a few seconds"


class VoiceStore:
    """The voices in `folder` for a model with so many `codebooks`. `folder` None: only `default`.

    Files are looked at when a voice is asked for, so that one added while the server runs is found, and kept while they do not change.
    """

    def __init__(self, folder: Path | None, codebooks: int, codec_id: str = "codec") -> None:
        self.files = VoiceFolder(folder)
        self._codebooks = codebooks
        # Codes of recordings that were brought to another loudness, or to none, are not these.
        self._codec_id = f"{codec_id}-{-REFERENCE_LUFS:g}lufs"
        self._kept: dict[str, tuple[Version, Voice]] = {}
        self._unwritten: dict[str, Codes] = {}  # by recording: what the folder would not take
        self._held: OrderedDict[str, Voice] = OrderedDict()  # that came with requests, by id; the longest unused first

    def names(self) -> list[str]:
        """Every voice, `default` first."""
        return [DEFAULT, *self.files.names()]

    def get(self, name: str | None) -> Voice:
        """The voice `name`; None is `default`. Raises VoiceNotFound, VoiceUnusable.

        A voice that was replaced stays what it was until its new recordings are encoded.
        """
        if name is None or name == DEFAULT:
            return Voice(DEFAULT)
        if name in self._held:
            self._held.move_to_end(name)
            return self._held[name]
        kept = self._kept.get(name)
        try:
            version = self.files.version(name)
        except VoiceNotFound:
            self._kept.pop(name, None)
            raise
        if kept is not None and kept[0] == version:
            return kept[1]
        try:
            voice = self._read(name)
        except VoiceNotEncoded:
            if kept is None:
                raise
            return kept[1]
        self._kept[name] = (version, voice)
        return voice

    def hold(self, voice: Voice) -> str:
        """Let a voice that came with a request be asked for by the name that is returned, for a while. It is in no list."""
        self._held[voice.id] = voice
        self._held.move_to_end(voice.id)
        while len(self._held) > KEPT_HELD:
            self._held.popitem(last=False)
        return voice.id

    def meant(self, name: str | None, aliases: Mapping[str, str]) -> str | None:
        """The voice that a client means who knows another vendor's names: one of ours, an alias of one, or else `default` (None)."""
        for known in (name, aliases.get(name) if name is not None else None):
            if known is not None and known != DEFAULT and (known in self._held or self._is_there(known)):
                return known
        return None

    def add(self, name: str, references: Sequence[Reference], recordings: Sequence[bytes]) -> Voice:
        """Write a voice whose codes are known, in place of one of the same name. `recordings`: the audio file of each reference, which
        another model would encode.

        Raises VoiceUnusable for a name or codes that cannot be, OSError where the folder cannot be written.
        """
        assert len(references) == len(recordings), "one recording a reference"
        if not references:
            raise VoiceUnusable(name, f"0 references are not 1 to {MAX_REFERENCES}")
        for index, reference in enumerate(references):
            self._check(name, index, reference.codes)
        new = [NewSource(audio, reference.text) for audio, reference in zip(recordings, references, strict=True)]
        self.files.add(name, new, [reference.codes for reference in references], self._codec_id)
        return self.get(name)

    def missing(self, name: str) -> tuple[Source, ...]:
        """Those references of a voice that have no codes yet. Raises VoiceNotFound, VoiceUnusable."""
        if name == DEFAULT or name in self._held:
            return ()
        sources = self.files.sources(name)
        return tuple(source for source in sources if self._codes(source) is None)

    def keep_codes(self, recording: str, codes: Codes) -> OSError | None:
        """Remember what a recording became through the loaded model's codec, until the end of this process if the folder does not take it.

        Returns why it did not. A folder may well be read-only, and voices in it are spoken all the same.
        """
        try:
            self.files.keep_codes(recording, self._codec_id, codes)
        except OSError as error:
            self._unwritten[recording] = codes
            return error
        return None

    def _is_there(self, name: str) -> bool:
        try:
            self.files.version(name)
        except VoiceNotFound:
            return False
        return True

    def _codes(self, source: Source) -> Codes | None:
        codes = self.files.codes(source.recording, self._codec_id)
        return codes if codes is not None else self._unwritten.get(source.recording)

    def _read(self, name: str) -> Voice:
        references = []
        for index, source in enumerate(self.files.sources(name)):
            codes = self._codes(source)
            if codes is None:
                raise VoiceNotEncoded(name)
            self._check(name, index, codes)
            references.append(Reference(source.text, codes))
        return Voice(f"{name}-{digest_of(references)}", tuple(references))

    def _check(self, name: str, index: int, codes: Codes) -> None:
        if codes.ndim != 2 or codes.shape[0] != self._codebooks or not codes.shape[1]:
            raise VoiceUnusable(name, f"reference {index} has codes {list(codes.shape)}, not [{self._codebooks}, T]")
        if codes.dtype.kind not in "iu" or codes.min() < 0:
            raise VoiceUnusable(name, f"reference {index} has codes that are no indices")


def digest_of(references: Sequence[Reference]) -> str:
    """What the engine's cache may go by: equal exactly when text and codes are."""
    digest = hashlib.sha256()
    for reference in references:
        text = reference.text.encode()
        digest.update(f"{len(text)}/{reference.codes.shape}/".encode() + text)
        digest.update(np.ascontiguousarray(reference.codes, dtype="<i2").tobytes())
    return digest.hexdigest()[:16]

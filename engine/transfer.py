"""One file over HTTP: resumed by ranges, tried again while that brings bytes, its checksum taken on the way.

Knows requests, ranges and checksums. Does not know repositories, tokens or the cache (hub.py).
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import IO

import httpx2
from huggingface_hub import constants, get_session, hf_raise_for_status
from huggingface_hub.errors import HfHubHTTPError

log = logging.getLogger(__name__)

_READ_BYTES = 1 << 20

_TRIES = 5  # in a row that brought nothing; one that brought bytes starts the count anew
_RETRY_WAIT_S = 1.0  # after the first of them, twice as long after each further one: 15 s in all
_PASSING_STATUS = frozenset({408, 429, 500, 502, 503, 504})
# What a request for a range gets where ranges are ignored, and where the file is shorter than what is here.
_STARTS_OVER = frozenset({200, 416})


class TransferStalled(Exception):
    """Try after try brought no byte; the text says why. What had come before stays in the file."""


class Transfer:
    """The bytes of one file, appended to `out`, whose checksum is kept as they pass.

    `url` is asked anew for every request, redirects followed: what a hub redirects to expires during a long download.
    `out` is open for reading and appending; what it holds already is where the transfer goes on. `etag` says how the checksum is
    taken: 64 digits for a file's sha256, 40 for its name as a git blob. `report` gets the position after each chunk.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        size: int,
        etag: str,
        out: IO[bytes],
        report: Callable[[int], None],
    ) -> None:
        self._url = url
        # Compression would make a range one of the compressed body.
        self._headers = {**headers, "Accept-Encoding": "identity"}
        self._size = size
        self._etag = etag
        self._out = out
        self._report = report
        self._digest = self._new_digest()
        left = out.seek(0, os.SEEK_END)
        out.seek(0)
        while left > 0 and (chunk := out.read(min(left, _READ_BYTES))):
            self._digest.update(chunk)
            left -= len(chunk)

    def run(self) -> None:
        """Go on until all bytes are there. Raises TransferStalled, and HfHubHTTPError for an answer that will not pass."""
        fruitless = 0
        while (before := self._out.tell()) < self._size:
            error = self._attempt()
            if self._out.tell() > before:
                fruitless = 0
                continue
            fruitless += 1
            why = str(error) or type(error).__name__ if error else "it sends no bytes"
            if fruitless == _TRIES:
                raise TransferStalled(why) from error
            log.warning("%s: %s; trying again at byte %d", self._url, why, self._out.tell())
            time.sleep(_RETRY_WAIT_S * 2 ** (fruitless - 1))

    def checksum(self) -> str:
        """Of all that `out` holds, in hex: equal to `etag` for an intact file."""
        return self._digest.hexdigest()

    def _attempt(self) -> Exception | None:
        """One request for what is missing. Returns the error that ended it, if it is of a kind that passes."""
        try:
            self._append()
        except httpx2.TransportError as error:
            return error
        except HfHubHTTPError as error:
            if error.response.status_code not in _PASSING_STATUS:
                raise
            return error
        return None

    def _append(self) -> None:
        position = self._out.tell()
        headers = self._headers | ({"Range": f"bytes={position}-"} if position else {})
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", self._url, headers=headers, timeout=timeout) as response:
            if position and response.status_code in _STARTS_OVER:
                self._out.seek(0)
                self._out.truncate()
                self._digest = self._new_digest()
                if response.status_code != 200:
                    return
            hf_raise_for_status(response)
            # In the pieces that arrive: what waits to fill a larger one is lost with the connection.
            for chunk in response.iter_bytes():
                self._out.write(chunk)
                self._digest.update(chunk)
                self._report(self._out.tell())
                if self._out.tell() > self._size:
                    return  # the digest will tell; no need to wait for the end

    def _new_digest(self) -> hashlib._Hash:
        if len(self._etag) == 64:
            return hashlib.sha256()
        return hashlib.sha1(f"blob {self._size}\0".encode(), usedforsecurity=False)

"""Who may come in: keys, whose they are, and which pages a browser may connect from.

Knows headers and keys. Does not know requests, sockets or how a refusal is sent. Keys are compared in constant time and never shown.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

KEY_HEADERS: Final = ("xi-api-key", "x-api-key")  # ElevenLabs; Cartesia and many others
ANYBODY: Final = "anybody"  # the owner of everything on a server without keys


class Credential(Enum):
    """What an Authorization header says."""

    NONE = "none"
    RIGHT = "right"
    WRONG = "wrong"


class Gate:
    """The server's keys and the origins it trusts. Without keys everybody may come in who is not sent by a foreign page."""

    def __init__(self, keys: Sequence[str], allowed_origins: Sequence[str]) -> None:
        # Digests have one length: comparing them tells nothing about a key's.
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._origins = frozenset(origin.rstrip("/").lower() for origin in allowed_origins)

    @property
    def is_open(self) -> bool:
        """Whether no key is asked for."""
        return not self._digests

    @property
    def first_owner(self) -> str:
        """Whose sessions the first key opens, see `owner`."""
        return ANYBODY if self.is_open else "key-0"

    def knows(self, key: str) -> bool:
        """Whether this is one of the keys. Takes as long for a wrong one; without keys every key is right."""
        return self.owner(key) is not None

    def owner(self, key: str) -> str | None:
        """Whose sessions this key opens: the same for the same key, and no secret. None: it is not one of the keys."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        if self.is_open:
            return ANYBODY
        return f"key-{matches.index(True)}" if any(matches) else None

    def credential(self, authorization: str | None) -> Credential:
        """`Bearer KEY`, `Token KEY`, or what a browser sends that asked for a password: `Basic`, any name, and the key as the password."""
        if self.is_open:
            return Credential.RIGHT
        if authorization is None:
            return Credential.NONE
        return Credential.RIGHT if self.bearer(authorization) is not None else Credential.WRONG

    def bearer(self, authorization: str | None) -> str | None:
        """The owner of the key in an Authorization header, see `credential` and `owner`. None: there is none, or it is wrong."""
        if self.is_open:
            return ANYBODY
        scheme, _, value = (authorization or "").partition(" ")
        key: str | None = None
        if scheme.lower() in ("bearer", "token"):
            key = value.strip()
        elif scheme.lower() == "basic":
            key = _basic_password(value)
        return self.owner(key) if key is not None else None

    def of_headers(self, headers: Mapping[str, str]) -> tuple[Credential, str | None]:
        """The same, and the owner, for whoever shows a key in a way of another vendor's clients: `KEY_HEADERS`, or `Token KEY`.

        Where several are shown, all must be right, and of one owner. `headers`: by lower-case name.
        """
        if self.is_open:
            return Credential.RIGHT, ANYBODY
        shown = [self.owner(headers[name].strip()) for name in KEY_HEADERS if name in headers]
        if "authorization" in headers:
            shown.append(self.bearer(headers["authorization"]))
        if not shown:
            return Credential.NONE, None
        right = None not in shown and len(set(shown)) == 1
        return (Credential.RIGHT, shown[0]) if right else (Credential.WRONG, None)

    def trusts(self, origin: str | None, host: str | None) -> bool:
        """Whether a page of this origin may connect to a server that was called `host`. None: no page at all, but a program.

        A page from elsewhere could otherwise use a server on its visitor's own machine. Where no key is asked for, the name that the
        server was called by must not be one that somebody's DNS could point here.
        """
        if origin is None:
            return True
        if "*" in self._origins or origin.lower() in self._origins:
            return True
        name = urlsplit(origin).netloc.lower()
        if not name or host is None or name != host.lower():
            return False
        return not self.is_open or _cannot_be_rebound(urlsplit(f"//{host}").hostname or "")


def _basic_password(value: str) -> str | None:
    try:
        text = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    return text.partition(":")[2]


def _cannot_be_rebound(hostname: str) -> bool:
    """Whether a name always means the machine it says: an address, or localhost and what is below it (RFC 6761)."""
    try:
        ipaddress.ip_address(hostname)
    except ValueError:
        return hostname == "localhost" or hostname.endswith(".localhost")
    return True

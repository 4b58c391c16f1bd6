"""Short-lived secrets for browsers: who has a key asks for one, and a page that has none of its own opens one session with it.

Knows which session each secret opens, for whom, and until when. Does not know requests or sessions. A secret works once; only its digest is
kept, so that looking it up tells nothing about the others.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

MAX_SECRETS: Final = 4096  # unused ones; a page uses its own at once
SECRET_BYTES: Final = 32
SESSION_ID_BYTES: Final = 16  # an id is no credential, and is not to be guessed all the same
PREFIX: Final = "pcs_"  # so that a leaked one is recognised


@dataclass(frozen=True, slots=True)
class Grant:
    """What a secret is good for."""

    session_id: str
    owner: str  # of the key that asked for it
    expires_at: float  # s


class ClientSecrets:
    """The unused secrets of one server. All times are seconds, monotonic."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._grants: OrderedDict[bytes, Grant] = OrderedDict()  # by digest, oldest first

    def __len__(self) -> int:
        return len(self._grants)

    def mint(self, owner: str, now: float) -> tuple[str, Grant] | None:
        """A new secret and what it opens. None: too many are unused."""
        self._forget_expired(now)
        if len(self._grants) >= MAX_SECRETS:
            return None
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        grant = Grant(new_session_id(), owner, now + self._ttl_s)
        self._grants[_digest(secret)] = grant
        return secret, grant

    def redeem(self, secret: str, now: float) -> Grant | None:
        """What it opens, once. None: nothing, or nothing any more."""
        self._forget_expired(now)
        return self._grants.pop(_digest(secret), None)

    def retry_after_s(self, now: float) -> float:
        """When the next unused secret expires."""
        return max(0.0, next(iter(self._grants.values())).expires_at - now) if self._grants else 0.0

    def _forget_expired(self, now: float) -> None:
        while self._grants and next(iter(self._grants.values())).expires_at <= now:
            self._grants.popitem(last=False)


def new_session_id() -> str:
    """An id that nobody can guess."""
    return f"s-{secrets.token_urlsafe(SESSION_ID_BYTES)}"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

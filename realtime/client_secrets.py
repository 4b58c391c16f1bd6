"""Short-lived secrets for browsers: who has a key asks for one, and a page that has none of its own opens one session with it.

Knows which session each secret opens, for whom, and until when. Does not know requests or sessions. A secret works once, in whichever
process of the server; only its digest is kept, so that looking it up tells nothing about the others.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from typing import Final

from realtime.shared import Shared

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

    def __init__(self, ttl_s: float, shared: Shared) -> None:
        self._ttl_s = ttl_s
        self._shared = shared

    def mint(self, owner: str, now: float) -> tuple[str, Grant] | None:
        """A new secret and what it opens. None: too many are unused."""
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        grant = Grant(new_session_id(), owner, now + self._ttl_s)
        text = json.dumps(asdict(grant)).encode()
        kept = self._shared.keep_secret(_digest(secret), text, MAX_SECRETS, grant.expires_at, now)
        return (secret, grant) if kept else None

    def redeem(self, secret: str, now: float) -> Grant | None:
        """What it opens, once. None: nothing, or nothing any more."""
        text = self._shared.take_secret(_digest(secret), now)
        return Grant(**json.loads(text)) if text is not None else None

    def retry_after_s(self, now: float) -> float:
        """When the next unused secret expires."""
        return next((expires_at - now for expires_at in self._shared.secrets_expire_at(now)), 0.0)


def new_session_id() -> str:
    """An id that nobody can guess."""
    return f"s-{secrets.token_urlsafe(SESSION_ID_BYTES)}"


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()

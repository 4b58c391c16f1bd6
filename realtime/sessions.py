"""The sessions of one server: found again by the secret that resumes them, and how many there may be.

Knows which of them have no socket, and that those give way first. Does not know what a session does. Only digests of secrets are kept, so
that looking one up tells nothing about the others.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

TOKEN_BYTES: Final = 32
PREFIX: Final = "prt_"  # so that a leaked one is recognised


class Member(Protocol):
    """A session, as far as it matters here."""

    @property
    def waiting_since(self) -> float | None:
        """Since when it has had no socket and nothing to say (seconds); None: it has."""

    def end(self) -> None:
        """Be over, now. It is discarded by whoever calls this."""


MemberT = TypeVar("MemberT", bound=Member)


class Sessions(Generic[MemberT]):
    """All that live. Each is in here from `add` to `discard`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_digest: dict[bytes, MemberT] = {}
        self._digests: dict[MemberT, bytes] = {}

    def __len__(self) -> int:
        return len(self._digests)

    def __iter__(self) -> Iterator[MemberT]:
        """A copy: they may come and go meanwhile."""
        return iter(list(self._digests))

    def add(self, session: MemberT) -> str:
        """Take it in; the secret that finds it again."""
        token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        digest = _digest(token)
        self._by_digest[digest] = session
        self._digests[session] = digest
        return token

    def find(self, token: str) -> MemberT | None:
        """The session that this secret resumes, if it lives."""
        return self._by_digest.get(_digest(token))

    def discard(self, session: MemberT) -> None:
        """It is over. Idempotent."""
        digest = self._digests.pop(session, None)
        if digest is not None:
            del self._by_digest[digest]

    @property
    def has_room(self) -> bool:
        """Whether one more could come in."""
        return len(self) < self._most or self._longest_waiting() is not None

    def make_room(self) -> bool:
        """Have a place for one more, if need be by ending the session that has waited longest for a socket. False: there is none."""
        if len(self) < self._most:
            return True
        session = self._longest_waiting()
        if session is None:
            return False
        session.end()
        self.discard(session)
        return True

    def _longest_waiting(self) -> MemberT | None:
        waiting = [(session.waiting_since, index) for index, session in enumerate(self._digests)]
        times = [(since, index) for since, index in waiting if since is not None]
        return list(self._digests)[min(times)[1]] if times else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

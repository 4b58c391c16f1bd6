"""The sessions of one process: found again by the secret that resumes them, and how many there may be in all processes of the server.

Knows which of them have no socket, and that those give way first. Does not know what a session does. Only digests of secrets are kept, so
that looking one up tells nothing about the others.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Final, Generic, Protocol, TypeVar

from realtime.shared import Count, Shared, token_name

TOKEN_BYTES: Final = 32
PREFIX: Final = "prt_"  # so that a leaked one is recognised


class Member(Protocol):
    """A session, as far as it matters here."""

    id: str

    @property
    def waiting_since(self) -> float | None:
        """Since when it has had no socket and nothing to say (seconds); None: it has."""

    def end(self) -> None:
        """Be over, now. It is discarded by whoever calls this."""


MemberT = TypeVar("MemberT", bound=Member)


class Sessions(Generic[MemberT]):
    """All that live here. Each is in here, and the other processes are told of it, from `add` to `discard`."""

    def __init__(self, most: int, shared: Shared) -> None:
        """most: in all processes together."""
        self._most = most
        self._shared = shared
        self._by_name: dict[str, MemberT] = {}  # of its token
        self._names: dict[MemberT, str] = {}
        self._place_kept = False  # one is counted that is not here yet: whoever is added next has it

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[MemberT]:
        """A copy: they may come and go meanwhile."""
        return iter(list(self._names))

    @property
    def total(self) -> int:
        """In all processes."""
        return self._shared.total(Count.SESSIONS)

    def add(self, session: MemberT) -> str:
        """Take it in, once `make_room` said so; the secret that finds it again. Raises OSError where the others cannot be told."""
        assert self._place_kept, "there is room for it"
        token = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
        name = token_name(token)
        self._shared.register(session.id)
        self._shared.register(name)
        self._place_kept = False
        self._by_name[name] = session
        self._names[session] = name
        return token

    def find(self, token: str) -> MemberT | None:
        """The session that this secret resumes, if it lives here."""
        return self._by_name.get(token_name(token))

    def discard(self, session: MemberT) -> None:
        """It is over. Idempotent."""
        if self._forget(session):
            self._shared.give_back(Count.SESSIONS)

    @property
    def waiting(self) -> int:
        """How many here would give way to a new one."""
        return sum(session.waiting_since is not None for session in self._names)

    @property
    def has_room(self) -> bool:
        """Whether one more could come in."""
        return self._place_kept or self.total < self._most or self._longest_waiting() is not None

    def make_room(self) -> bool:
        """Have a place for the next one, if need be that of the session here which has waited longest for a socket. False: there is none.

        No other process takes it meanwhile.
        """
        self._place_kept = self._place_kept or self._shared.take(Count.SESSIONS, self._most)
        if not self._place_kept and (session := self._longest_waiting()) is not None:
            # Its place is handed on. Given back, another process could take it, and the session had ended for nothing.
            self._place_kept = self._forget(session)
            session.end()
        return self._place_kept

    def _forget(self, session: MemberT) -> bool:
        """Whether it was there."""
        name = self._names.pop(session, None)
        if name is None:
            return False
        del self._by_name[name]
        self._shared.release(name)
        self._shared.release(session.id)
        return True

    def _longest_waiting(self) -> MemberT | None:
        waiting = [(session.waiting_since, index) for index, session in enumerate(self._names)]
        times = [(since, index) for since, index in waiting if since is not None]
        return list(self._names)[min(times)[1]] if times else None

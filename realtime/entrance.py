"""What somebody asks for who opens a socket, and whether it is granted.

Knows the query of the address, keys, secrets and who owns which session. Does not know sockets or how a refusal is delivered: it raises
ProtocolError, always fatal.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl

from protocol.errors import ErrorCode, ProtocolError, quoted
from realtime.auth import Credential, Gate
from realtime.client_secrets import ClientSecrets
from realtime.replay import Have

_PARAMETERS = ("token", "resume", "have")


@dataclass(frozen=True, slots=True)
class Wish:
    """The query of the address, read. At most one of `token` and `resume` is there."""

    token: str | None = None  # a client secret; never a key, which would stay in a browser's history
    resume: str | None = None  # the secret of a session
    have: Have | None = None  # where its listener is

    @classmethod
    def parse(cls, query: str) -> Wish:
        """Raises ProtocolError `bad_message`: a misspelt `resume` would lose a conversation without a word."""
        pairs = parse_qsl(query, keep_blank_values=True)
        given = dict(pairs)
        for name in given:
            if name not in _PARAMETERS:
                raise _bad(f"the address has a parameter {quoted(name)}; there are {', '.join(_PARAMETERS)}")
        if len(given) < len(pairs):
            raise _bad("the address has a parameter twice")
        if "have" in given and "resume" not in given:
            raise _bad("have belongs to resume")
        if "token" in given and "resume" in given:
            raise _bad("token opens a new session, resume an old one")
        try:
            have = Have.parse(given["have"]) if "have" in given else None
        except ValueError:
            raise _bad("have is n:position, the number of a turn and of a sample, such as 3:48000") from None
        return cls(given.get("token"), given.get("resume"), have)


@dataclass(frozen=True, slots=True)
class Shown:
    """Who somebody has shown to be."""

    owner: str
    session_id: str | None = None  # that a client secret opens; None: any new one


class Doorkeeper:
    """Judges credentials for one server."""

    def __init__(self, gate: Gate, client_secrets: ClientSecrets) -> None:
        self._gate = gate
        self._secrets = client_secrets

    def in_address(self, wish: Wish, authorization: str | None, now: float) -> Shown | None:
        """By header or client secret. None: nothing was shown yet. Raises ProtocolError. A secret is spent by it: ask for room before."""
        credential = self._gate.credential(authorization)
        if credential is Credential.WRONG:
            raise _wrong_key()
        if wish.token is None:
            owner = self._gate.bearer(authorization)
            return Shown(owner) if owner is not None else None
        grant = self._secrets.redeem(wish.token, now)
        if grant is None:
            text = "token is not a client secret of this server, has expired, or was used: each opens one session, once"
            raise ProtocolError.fatal_error(ErrorCode.UNAUTHORIZED, text)
        return Shown(grant.owner, grant.session_id)

    def in_message(self, token: str, now: float) -> Shown:
        """By the token of a first session.update: a key or a client secret. Raises ProtocolError."""
        owner = self._gate.owner(token)
        if owner is not None:
            return Shown(owner)
        grant = self._secrets.redeem(token, now)
        if grant is None:
            raise _wrong_key()
        return Shown(grant.owner, grant.session_id)

    def check_again(self, token: str, owner: str) -> None:
        """A key that comes although it is not needed must be right all the same, and the same one. Raises ProtocolError."""
        if self._gate.owner(token) != owner:
            raise _wrong_key()


def check_owner(session_owner: str, owner: str) -> None:
    """A session belongs to the key that made it. Raises ProtocolError."""
    if session_owner != owner:
        raise ProtocolError.fatal_error(ErrorCode.FORBIDDEN, "the session was made with another key")


def _wrong_key() -> ProtocolError:
    return ProtocolError.fatal_error(ErrorCode.UNAUTHORIZED, "wrong key")


def _bad(text: str) -> ProtocolError:
    return ProtocolError.fatal_error(ErrorCode.BAD_MESSAGE, text)

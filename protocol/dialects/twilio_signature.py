"""Whether a request came from Twilio: its signature over the address, and over the fields of a form.

Knows the arithmetic (HMAC-SHA1, as Twilio documents it) and the spellings of one address. Does not know requests.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit, urlunsplit

HEADER: Final = "x-twilio-signature"
_PORTS: Final = {"https": 443, "wss": 443, "http": 80, "ws": 80}


def signature(token: str, url: str, form: Mapping[str, Sequence[str]] | None = None) -> str:
    """What Twilio signs a request to `url` with. token: the account's auth token. form: the values of each field of a POST."""
    fields = "".join(name + value for name, values in sorted((form or {}).items()) for value in sorted(set(values)))
    return base64.b64encode(hmac.new(token.encode(), (url + fields).encode(), hashlib.sha1).digest()).decode()


def is_signed(token: str, url: str, given: str, form: Mapping[str, Sequence[str]] | None = None) -> bool:
    """Whether `given` is right, with or without the port and the slash at the end: Twilio is not of one mind about them."""
    shown = given.strip().encode("utf-8", "surrogateescape")
    right = [hmac.compare_digest(signature(token, spelled, form).encode(), shown) for spelled in _spellings(url)]
    return any(right)


def _spellings(url: str) -> list[str]:
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port or _PORTS.get(parts.scheme)
    places = dict.fromkeys((parts.netloc, host, f"{host}:{port}"))
    paths = dict.fromkeys((parts.path, parts.path.rstrip("/"), parts.path.rstrip("/") + "/"))
    return [urlunsplit(parts._replace(netloc=place, path=path)) for place in places for path in paths]

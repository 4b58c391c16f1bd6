"""Recordings that a request names instead of sending them: a path below a folder, or an address on the internet.

Knows what an operator allows, sizes and times, and that an address must not lead into a private network: at once, by a redirect, or by a
name that means another machine the second time it is looked up. Does not know audio or voices.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urljoin, urlsplit

import anyio
import anyio.to_thread
import httpx2

MAX_BYTES: Final = 16 * 1024 * 1024
TIMEOUT_S: Final = 10.0  # for all of it, redirects included
MAX_REDIRECTS: Final = 3
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_TUNNELS: Final = (
    ipaddress.ip_network("2002::/16"),
    ipaddress.ip_network("2001::/32"),
    ipaddress.ip_network("64:ff9b:1::/48"),
)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass
class ReferenceRefused(Exception):
    """This recording cannot be had. The text tells nothing of what is on the server's side."""

    why: str

    def __str__(self) -> str:
        return self.why


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet at large, and not a disguise of one that is not."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.is_site_local or any(ip in tunnel for tunnel in _TUNNELS):
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of a name. Raises OSError."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


class References:
    """What one server's operator allows."""

    def __init__(
        self,
        folder: Path | None,
        urls: bool,
        resolve: Resolve = resolve,
        allowed: Callable[[str], bool] = is_public,
    ) -> None:
        """folder: None: no paths. `resolve` and `allowed` are the internet's; tests have their own."""
        self._folder = folder
        self._urls = urls
        self._resolve = resolve
        self._allowed = allowed

    async def loaded(self, recordings: Sequence[tuple[bytes | str, str]]) -> list[tuple[bytes, str]]:
        """All of them as files, with their transcripts. Raises ReferenceRefused."""
        return [(audio if isinstance(audio, bytes) else await self._load(audio), text) for audio, text in recordings]

    async def _load(self, place: str) -> bytes:
        scheme = place.partition("://")[0].lower() if "://" in place else ""
        if scheme in ("http", "https"):
            if not self._urls:
                raise ReferenceRefused(
                    "this server fetches no recordings; its operator can allow it with reference_urls"
                )
            return await self._fetch(place)
        if scheme not in ("", "file"):
            raise ReferenceRefused("a recording is named by a path, a file: address or an http(s) address")
        if self._folder is None:
            raise ReferenceRefused("this server reads no paths; its operator can allow a folder with reference_paths")
        path = unquote(urlsplit(place).path) if scheme else place
        return await anyio.to_thread.run_sync(_read, self._folder, path)

    async def _fetch(self, url: str) -> bytes:
        with anyio.move_on_after(TIMEOUT_S):
            for _ in range(MAX_REDIRECTS + 1):
                answer = await self._get(url)
                if isinstance(answer, bytes):
                    return answer
                url = urljoin(url, answer)
            raise ReferenceRefused(f"the address leads on more than {MAX_REDIRECTS} times")
        raise ReferenceRefused(f"the address did not answer within {TIMEOUT_S:g} s")

    async def _get(self, url: str) -> bytes | str:
        """The file, or where it is instead. The connection goes to the very address that was judged."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise ReferenceRefused("this is no address") from None
        if parts.scheme not in ("http", "https") or not host or parts.username is not None:
            raise ReferenceRefused("this is no http(s) address without a user name")
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise ReferenceRefused("the address has no such name") from None
        if not addresses or not all(self._allowed(address) for address in addresses):
            raise ReferenceRefused("the address is not on the public internet")
        literal = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        pinned = parts._replace(netloc=f"{literal}:{port}", fragment="").geturl()
        name = parts.netloc
        try:
            # Without the environment's proxies: they would look the name up again.
            async with (
                httpx2.AsyncClient(trust_env=False, follow_redirects=False, timeout=TIMEOUT_S) as client,
                client.stream("GET", pinned, headers={"Host": name}, extensions={"sni_hostname": host}) as response,
            ):
                if response.status_code in _REDIRECTS and "location" in response.headers:
                    return str(response.headers["location"])
                if response.status_code != 200:
                    raise ReferenceRefused(f"the address answers {response.status_code}")
                data = bytearray()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_BYTES:
                        raise ReferenceRefused(f"the recording has more than {MAX_BYTES} bytes")
                return bytes(data)
        except (httpx2.HTTPError, httpx2.InvalidURL):
            raise ReferenceRefused("the address could not be read") from None


def _read(folder: Path, name: str) -> bytes:
    """A file below the folder, wherever links lead. Raises ReferenceRefused, alike for what is outside and for what is not there."""
    root = folder.resolve()
    try:
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root) or not path.is_file():
            raise FileNotFoundError
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError, RuntimeError):
        raise ReferenceRefused("there is no such recording in the folder that requests may name") from None
    if len(data) > MAX_BYTES:
        raise ReferenceRefused(f"the recording has more than {MAX_BYTES} bytes")
    return data

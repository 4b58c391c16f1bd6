"""What the client's side hears, on its way to a server that tells when somebody speaks.

Knows where each piece of sound belongs in its recording. Does not know where it comes from, nor what the server does with it.
"""

from __future__ import annotations

from protocol.audio_frame import Flag, Kind, pack
from protocol.client.link import Link


class Microphone:
    """One recording. `Client.listen` makes it; close it when nobody listens any more."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._position = 0  # of the next sample, at the announced rate
        self._begun = False  # the server has got a piece of it

    async def hear(self, payload: bytes, samples: int) -> None:
        """The next piece: one Opus packet, or whole samples, at most limits.uplink_ms long. samples: how many it holds.

        What is heard while a lost socket is replaced is silence to the server.
        """
        await self._send(payload, Flag.NONE)
        self._position += samples

    async def close(self) -> None:
        """Speech that lasts has stopped."""
        await self._send(b"", Flag.LAST)

    def _restart(self) -> None:
        """The server has not heard anything yet: another session."""
        self._position, self._begun = 0, False

    async def _send(self, payload: bytes, flags: Flag) -> None:
        if self._link.is_open:
            flags |= Flag.NONE if self._begun or self._position else Flag.FIRST
            self._begun = True
            await self._link.post_bytes(pack(Kind.UPLINK, flags, 0, 0, self._position, payload))

"""Pages of an Ogg stream.

Knows page headers, lacing and the checksum. Does not know what the packets hold. Source: RFC 3533 6.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

_FIRST, _LAST = 2, 4  # bits of the header type; no packet of ours is ever continued, which would be 1
_MAX_SEGMENTS: Final = 255
_CHECKSUM_AT: Final = 22
_REVERSED: Final = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class OggStream:
    """One logical stream, page by page; each page holds whole packets."""

    def __init__(self, serial: int) -> None:
        """serial: 32 bits; streams that are chained in one file must differ in it."""
        self._serial = serial
        self._pages = 0

    def page(self, packets: Sequence[bytes], granule: int, last: bool = False) -> bytes:
        """granule: the codec's position at the end of the last packet; 0 for headers."""
        lacing = b"".join(_lacing(len(packet)) for packet in packets)
        assert 0 < len(lacing) <= _MAX_SEGMENTS, f"{len(lacing)} segments do not fit into a page of {_MAX_SEGMENTS}"
        kind = (_FIRST if self._pages == 0 else 0) | (_LAST if last else 0)
        head = struct.pack("<4sBBqIII", b"OggS", 0, kind, granule, self._serial, self._pages, 0)
        self._pages += 1
        page = head + bytes([len(lacing)]) + lacing + b"".join(packets)
        return page[:_CHECKSUM_AT] + struct.pack("<I", checksum(page)) + page[_CHECKSUM_AT + 4 :]


def _lacing(size: int) -> bytes:
    """Segments of 255 bytes and one that is shorter, perhaps empty: it ends the packet."""
    return b"\xff" * (size // 255) + bytes([size % 255])


def checksum(page: bytes) -> int:
    """CRC-32 of a page whose own checksum is 0: polynomial 0x04C11DB7, high bits first, from 0, nothing inverted.

    zlib has that polynomial with low bits first and inverts before and after: turning the bits of every byte around, and those of the
    result, and inverting twice more, makes one of the other; in 1 us instead of 40 for a loop over the bytes.
    """
    turned = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(turned.to_bytes(4, "little").translate(_REVERSED), "big")

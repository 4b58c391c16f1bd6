"""The 16 bytes in front of every binary audio message, both directions.

Knows the header's layout and ranges. Does not know codecs: the payload is opaque (one Opus packet, or whole PCM samples).
Little-endian: kind u8, flags u8, leg u16, n u32, position u64.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from protocol.errors import ErrorCode, ProtocolError

HEADER: Final = struct.Struct("<BBHIQ")
assert HEADER.size == 16, "clients slice the payload at byte 16"


class Kind(IntEnum):
    """Whose sound it is."""

    SPEECH = 1  # from the server
    UPLINK = 2  # a microphone, from the client


class Flag(IntFlag):
    """Bits of the flags byte; a receiver keeps and ignores bits that it does not know."""

    NONE = 0
    FIRST = 1  # first message of the turn
    LAST = 2  # last message of the turn
    DISCONTINUITY = 4  # samples were dropped before this message


@dataclass(frozen=True, slots=True)
class AudioFrame:
    """One binary message."""

    kind: Kind
    flags: Flag
    leg: int  # u16; 0 is this socket
    n: int  # u32; number of the turn
    position: int  # u64; index of the first sample within the turn, at the session's output rate
    payload: bytes


def pack(kind: Kind, flags: Flag, leg: int, n: int, position: int, payload: bytes) -> bytes:
    """One binary message. Raises ValueError for a number that its field cannot hold."""
    try:
        return HEADER.pack(kind, flags, leg, n, position) + payload
    except struct.error as error:
        raise ValueError(f"flags {flags}, leg {leg}, n {n}, position {position} exceed u8, u16, u32, u64") from error


def unpack(message: bytes) -> AudioFrame:
    """Read one binary message. Raises ProtocolError: `bad_message` if shorter than a header, `unsupported` for an unknown kind."""
    if len(message) < HEADER.size:
        text = f"a binary message of {len(message)} bytes is shorter than its header of {HEADER.size}"
        raise ProtocolError(ErrorCode.BAD_MESSAGE, text)
    kind, flags, leg, n, position = HEADER.unpack_from(message)
    try:
        known = Kind(kind)
    except ValueError as error:
        raise ProtocolError(ErrorCode.UNSUPPORTED, f"unknown kind {kind} of binary message", param="kind") from error
    return AudioFrame(known, Flag(flags), leg, n, position, bytes(message[HEADER.size :]))

"""What scripts ask the local fish-speech server for besides speech: its codec, in MessagePack or JSON.

Knows the fields of `/v1/vqgan/encode` and `/v1/vqgan/decode` and their bounds. Does not know audio or a codec. Source: fish-speech's
API server, whose answers are MessagePack whatever was asked in.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from typing import Final

import ormsgpack

from protocol.dialects.interface import Refused

MAX_ITEMS: Final = 16  # recordings, or pieces of codes, in one request
BODY_BYTES: Final = 64 * 1024 * 1024  # ten minutes of wav at 48 kHz and 16 bits are 58 MB
MEDIA_TYPE: Final = "application/msgpack"
_MOST_INDEX: Final = 2**15 - 1  # a code is an int16


def read_audios(body: bytes, content_type: str) -> list[bytes]:
    """Audio files to be encoded, of `{"audios": [...]}`: bytes, or base64. Raises Refused."""
    audios = _list(_fields(body, content_type), "audios")
    return [_bytes(item, f"audios.{index}") for index, item in enumerate(audios)]


def read_tokens(body: bytes, content_type: str, codebooks: int, most_frames: int) -> list[list[list[int]]]:
    """Codes to be decoded, of `{"tokens": [[codebook][frame]]}`. Raises Refused."""
    tokens = _list(_fields(body, content_type), "tokens")
    checked = [_codes(item, f"tokens.{index}", codebooks) for index, item in enumerate(tokens)]
    frames = sum(len(codes[0]) for codes in checked)
    if frames > most_frames:
        raise Refused(413, f"tokens: {frames} frames, more than {most_frames}", param="tokens")
    return checked


def tokens_answer(tokens: Sequence[Sequence[Sequence[int]]]) -> bytes:
    """Codes [codebook][frame] of each recording."""
    return ormsgpack.packb({"tokens": tokens})


def audios_answer(audios: Sequence[bytes]) -> bytes:
    """Samples of each piece: 16-bit floats at the model's rate, without a header."""
    return ormsgpack.packb({"audios": audios})


def _fields(body: bytes, content_type: str) -> Mapping[object, object]:
    packed = "msgpack" in content_type
    try:
        fields = ormsgpack.unpackb(body) if packed else json.loads(body)
    except (ormsgpack.MsgpackDecodeError, ValueError, RecursionError) as error:
        raise Refused(400, f"the body is not {'MessagePack' if packed else 'JSON'}: {error}") from None
    if not isinstance(fields, dict):
        raise Refused(422, "the body is no object")
    return fields


def _list(fields: Mapping[object, object], name: str) -> list[object]:
    found = fields.get(name)
    if not isinstance(found, list):
        raise Refused(422, f"{name}: a list is needed", param=name)
    if len(found) > MAX_ITEMS:
        raise Refused(422, f"{name}: {len(found)} of them, more than {MAX_ITEMS}", param=name)
    return found


def _bytes(item: object, where: str) -> bytes:
    if isinstance(item, bytes):
        return item
    try:
        if isinstance(item, str):
            return base64.b64decode(item, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise Refused(422, f"{where}: neither bytes nor base64", param=where)


def _codes(item: object, where: str, codebooks: int) -> list[list[int]]:
    rows = item if isinstance(item, list) else []
    if len(rows) != codebooks or not all(isinstance(row, list) for row in rows):
        raise Refused(422, f"{where}: the model's codes have {codebooks} lists", param=where)
    if not rows[0] or any(len(row) != len(rows[0]) for row in rows):
        raise Refused(422, f"{where}: its lists are of different length, or empty", param=where)
    if not all(type(code) is int and 0 <= code <= _MOST_INDEX for row in rows for code in row):
        raise Refused(422, f"{where}: a code is a number from 0 on", param=where)
    return rows

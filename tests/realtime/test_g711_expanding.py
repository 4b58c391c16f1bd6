"""The two laws backwards."""

from __future__ import annotations

import numpy as np

from realtime.g711 import encode_alaw, encode_mulaw
from realtime.g711_expanding import decode_alaw, decode_mulaw

EVERY_BYTE = bytes(range(256))


def test_the_ends_and_the_middle_of_mulaw_are_those_of_the_standard() -> None:
    assert decode_mulaw(bytes([0x00, 0x80, 0x7F, 0xFF, 0x8F])).tolist() == [-32124, 32124, 0, 0, 16764]


def test_the_ends_and_the_middle_of_alaw_are_those_of_the_standard() -> None:
    assert decode_alaw(bytes([0x2A, 0xAA, 0x55, 0xD5])).tolist() == [-32256, 32256, -8, 8]


def test_every_byte_survives_decoding_and_encoding() -> None:
    assert encode_alaw(decode_alaw(EVERY_BYTE)) == EVERY_BYTE
    # mu-law has two zeros: 0x7F is the negative one, and a sample has no sign without a value.
    assert encode_mulaw(decode_mulaw(EVERY_BYTE)) == EVERY_BYTE.replace(b"\x7f", b"\xff")


def test_no_sample_is_further_away_than_half_a_step() -> None:
    samples = np.arange(-32768, 32768, dtype=np.int32)
    for decode, encode in ((decode_mulaw, encode_mulaw), (decode_alaw, encode_alaw)):
        decoded = decode(encode(samples.astype(np.int16))).astype(np.int32)
        # A step is at most a sixteenth of where it lies, mu-law's bias of 132 counted; the low bits that encoding drops come on top.
        assert (np.abs(decoded - samples) <= (np.abs(samples) + 132) / 32 + 8).all()

"""G.711: every sample's byte, and what decodes from it."""

import hashlib

import numpy as np
import numpy.typing as npt
import pytest

from realtime.g711 import encode_alaw, encode_mulaw

EVERY_SAMPLE = np.arange(1 << 16, dtype=np.uint16).view(np.int16)  # 0..32767, then -32768..-1


def decode_mulaw(payload: bytes) -> npt.NDArray[np.int32]:
    """The middle of each byte's interval, as ITU-T G.711 table 2 has it, in 16-bit units."""
    code = ~np.frombuffer(payload, np.uint8)
    segment, step = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = ((2 * step + 33 << segment) - 33) * 4
    return np.where(code & 0x80, -magnitude, magnitude)


def decode_alaw(payload: bytes) -> npt.NDArray[np.int32]:
    """The middle of each byte's interval, as ITU-T G.711 table 1 has it, in 16-bit units."""
    code = np.frombuffer(payload, np.uint8) ^ 0x55
    segment, step = (code >> 4 & 7).astype(np.int32), (code & 15).astype(np.int32)
    magnitude = np.where(segment == 0, 2 * step + 1, 2 * step + 33 << np.maximum(segment - 1, 0)) * 8
    return np.where(code & 0x80, magnitude, -magnitude)


@pytest.mark.parametrize(
    ("encode", "digest"),
    [  # of the bytes that CPython 3.11's audioop.lin2ulaw and lin2alaw give for the same samples
        (encode_mulaw, "617fa4850d68d3906597e949f7625fb2fc46db479e29707f33159b3d131721cb"),
        (encode_alaw, "f77c76aa923ee25617453f87514828a12896227f82ff383bf3bb53d6ac7c2a0f"),
    ],
)
def test_every_sample_gets_the_byte_that_audioop_gave(encode, digest: str) -> None:  # type: ignore[no-untyped-def]
    assert hashlib.sha256(encode(EVERY_SAMPLE)).hexdigest() == digest


@pytest.mark.parametrize(
    ("sample", "byte"), [(0, 0xFF), (-1, 0x7E), (32767, 0x80), (-32768, 0x00), (8, 0xFE), (-9, 0x7D)]
)
def test_mulaw_of_landmarks(sample: int, byte: int) -> None:
    assert encode_mulaw(np.array([sample], np.int16)) == bytes([byte])


@pytest.mark.parametrize(
    ("sample", "byte"), [(0, 0xD5), (-1, 0x55), (32767, 0xAA), (-32768, 0x2A), (16, 0xD4), (-17, 0x54)]
)
def test_alaw_of_landmarks(sample: int, byte: int) -> None:
    assert encode_alaw(np.array([sample], np.int16)) == bytes([byte])


@pytest.mark.parametrize(("encode", "decode"), [(encode_mulaw, decode_mulaw), (encode_alaw, decode_alaw)])
def test_decoding_is_off_by_less_than_a_step(encode, decode) -> None:  # type: ignore[no-untyped-def]
    exact = EVERY_SAMPLE.astype(np.int32)
    error = np.abs(decode(encode(EVERY_SAMPLE)) - exact)
    assert (error <= np.maximum(np.abs(exact) / 16 / 2 + 8, 8)[: len(error)]).mean() > 0.98  # all but the clipped top
    assert error.max() <= 644


@pytest.mark.parametrize("encode", [encode_mulaw, encode_alaw])
def test_a_loud_tone_keeps_the_quality_of_a_telephone_line(encode) -> None:  # type: ignore[no-untyped-def]
    decode = decode_mulaw if encode is encode_mulaw else decode_alaw
    tone = 8000 * np.sin(2 * np.pi * 1013 * np.arange(8000) / 8000)
    error = decode(encode(np.rint(tone).astype(np.int16))) - tone
    assert 20 * np.log10(np.std(tone) / np.std(error)) > 37

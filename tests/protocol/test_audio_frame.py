from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.audio_frame import HEADER, AudioFrame, Flag, Kind, pack, unpack
from protocol.errors import ErrorCode, ProtocolError


def test_the_header_is_sixteen_little_endian_bytes_in_the_documented_order() -> None:
    message = pack(Kind.SPEECH, Flag.FIRST | Flag.DISCONTINUITY, 0x0102, 0x03040506, 0x0708090A0B0C0D0E, b"\xff")
    assert message == bytes.fromhex("01 05 0201 06050403 0e0d0c0b0a090807 ff")


@given(
    kind=st.sampled_from(Kind),
    flags=st.integers(0, 255).map(Flag),
    leg=st.integers(0, 2**16 - 1),
    n=st.integers(0, 2**32 - 1),
    position=st.integers(0, 2**64 - 1),
    payload=st.binary(max_size=50),
)
def test_what_was_packed_is_unpacked(kind: Kind, flags: Flag, leg: int, n: int, position: int, payload: bytes) -> None:
    assert unpack(pack(kind, flags, leg, n, position, payload)) == AudioFrame(kind, flags, leg, n, position, payload)


@pytest.mark.parametrize(("leg", "n", "position"), [(2**16, 0, 0), (0, 2**32, 0), (0, 0, 2**64), (-1, 0, 0)])
def test_a_number_that_its_field_cannot_hold_is_refused(leg: int, n: int, position: int) -> None:
    with pytest.raises(ValueError, match=f"leg {leg}, n {n}, position {position}"):
        pack(Kind.SPEECH, Flag.NONE, leg, n, position, b"")


@pytest.mark.parametrize("size", range(HEADER.size))
def test_a_message_shorter_than_its_header_is_a_bad_message(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"{size} bytes") as caught:
        unpack(b"\x01" * size)
    assert caught.value.code is ErrorCode.BAD_MESSAGE


def test_a_kind_that_is_not_known_is_unsupported() -> None:
    with pytest.raises(ProtocolError, match="kind 3") as caught:
        unpack(b"\x03" + bytes(15))
    assert (caught.value.code, caught.value.param) == (ErrorCode.UNSUPPORTED, "kind")


def test_flag_bits_that_are_not_known_are_kept() -> None:
    assert int(unpack(b"\x01\xf8" + bytes(14)).flags) == 0xF8


@given(st.binary(max_size=40))
def test_any_bytes_are_a_frame_or_a_protocol_error(message: bytes) -> None:
    try:
        frame = unpack(message)
    except ProtocolError:
        return
    assert pack(frame.kind, frame.flags, frame.leg, frame.n, frame.position, frame.payload) == message

from __future__ import annotations

import pytest

from protocol.errors import CLOSE_CODES, MAX_QUOTED_CHARS, CloseCode, ErrorCode, ProtocolError, clipped, quoted


def test_an_error_is_fatal_exactly_when_it_has_a_close_code() -> None:
    assert not ProtocolError(ErrorCode.INVALID_VALUE, "x").fatal
    assert ProtocolError(ErrorCode.INVALID_VALUE, "x", close_code=CloseCode.LIMIT_EXCEEDED).fatal


@pytest.mark.parametrize("code", CLOSE_CODES)
def test_a_fatal_error_closes_with_the_code_of_its_kind(code: ErrorCode) -> None:
    error = ProtocolError.fatal_error(code, "x", retry_after_ms=5)
    assert (error.code, error.close_code, error.retry_after_ms, error.fatal) == (code, CLOSE_CODES[code], 5, True)


def test_a_code_that_is_never_fatal_has_no_close_code_to_close_with() -> None:
    with pytest.raises(KeyError):
        ProtocolError.fatal_error(ErrorCode.RATE_LIMITED, "x")


def test_an_error_says_its_code_and_field() -> None:
    assert str(ProtocolError(ErrorCode.INVALID_VALUE, "is 3", param="a.b")) == "invalid_value (a.b): is 3"
    assert str(ProtocolError(ErrorCode.BAD_MESSAGE, "what")) == "bad_message: what"


def test_a_quoted_value_is_json() -> None:
    assert [quoted(value) for value in (True, None, 'a"b', 1.5, [1])] == ["true", "null", '"a\\"b"', "1.5", "[1]"]


def test_a_quoted_value_that_json_cannot_hold_is_still_quoted() -> None:
    assert quoted({1j}) == '"{1j}"'


def test_a_quoted_value_is_never_longer_than_the_bound() -> None:
    assert clipped("a" * MAX_QUOTED_CHARS) == "a" * MAX_QUOTED_CHARS
    assert clipped("a" * (MAX_QUOTED_CHARS + 1)) == "a" * (MAX_QUOTED_CHARS - 1) + "…"
    assert len(quoted("a" * 70_000)) == MAX_QUOTED_CHARS


def test_a_quoted_value_can_always_be_encoded() -> None:
    assert quoted("\ud83d") == '"?"'

from __future__ import annotations

import pytest

from protocol.errors import CloseCode, ErrorCode, ProtocolError
from realtime.auth import ANYBODY, Gate
from realtime.client_secrets import ClientSecrets
from realtime.entrance import Doorkeeper, Shown, Wish, check_owner
from realtime.replay import Have
from realtime.shared import Alone

KEY, OTHER = "correct-horse", "battery-staple"


def door() -> tuple[Doorkeeper, ClientSecrets]:
    vault = ClientSecrets(60, Alone())
    return Doorkeeper(Gate([KEY, OTHER], []), vault), vault


def refused(error: pytest.ExceptionInfo[ProtocolError]) -> tuple[ErrorCode, CloseCode | None]:
    return error.value.code, error.value.close_code


def test_an_address_may_ask_for_nothing_a_new_session_or_an_old_one() -> None:
    assert Wish.parse("") == Wish()
    assert Wish.parse("token=pcs_a-b") == Wish(token="pcs_a-b")
    assert Wish.parse("resume=x&have=3%3A48000") == Wish(resume="x", have=Have(3, 48000))
    assert Wish.parse("resume=x") == Wish(resume="x")


@pytest.mark.parametrize(
    "query",
    [
        "resum=x",
        "resume=x&resume=y",
        "have=1:2",
        "resume=x&have=",
        "resume=x&have=1",
        "resume=x&have=-1:0",
        "token=a&resume=b",
        "key=abc",
    ],
)
def test_an_address_that_asks_for_something_else_is_refused(query: str) -> None:
    with pytest.raises(ProtocolError) as error:
        Wish.parse(query)
    assert refused(error) == (ErrorCode.BAD_MESSAGE, CloseCode.BAD_MESSAGE)


def test_a_header_shows_whose_key_it_is() -> None:
    keeper, _ = door()
    mine, other = (keeper.in_address(Wish(), f"Bearer {key}", 0.0) for key in (KEY, OTHER))
    assert mine is not None and other is not None and mine.owner != other.owner
    assert keeper.in_address(Wish(), None, 0.0) is None
    assert Doorkeeper(Gate([], []), ClientSecrets(60, Alone())).in_address(Wish(), None, 0.0) == Shown(ANYBODY)


def test_a_client_secret_opens_its_session_for_whoever_asked_for_it() -> None:
    keeper, vault = door()
    made = vault.mint("key-1", 0.0)
    assert made is not None
    secret, grant = made
    assert keeper.in_address(Wish(token=secret), None, 1.0) == Shown("key-1", grant.session_id)
    with pytest.raises(ProtocolError, match="once"):
        keeper.in_address(Wish(token=secret), None, 1.0)


def test_a_key_in_the_address_opens_nothing() -> None:
    keeper, _ = door()
    with pytest.raises(ProtocolError) as error:
        keeper.in_address(Wish(token=KEY), None, 0.0)
    assert refused(error) == (ErrorCode.UNAUTHORIZED, CloseCode.UNAUTHORIZED)


def test_a_wrong_header_is_not_made_good_by_a_secret_which_stays_unspent() -> None:
    keeper, vault = door()
    made = vault.mint("key-1", 0.0)
    assert made is not None
    with pytest.raises(ProtocolError, match="wrong key"):
        keeper.in_address(Wish(token=made[0]), "Bearer nonsense", 0.0)
    assert keeper.in_message(made[0], 0.0).session_id == made[1].session_id


def test_a_message_may_show_a_key_or_a_client_secret() -> None:
    keeper, vault = door()
    made = vault.mint("key-1", 0.0)
    assert made is not None
    assert keeper.in_message(KEY, 0.0) == Shown("key-0")
    assert keeper.in_message(made[0], 0.0) == Shown("key-1", made[1].session_id)
    for wrong in (made[0], "nonsense", ""):
        with pytest.raises(ProtocolError, match="wrong key"):
            keeper.in_message(wrong, 0.0)


def test_a_key_shown_again_must_be_the_same() -> None:
    keeper, _ = door()
    keeper.check_again(KEY, "key-0")
    for wrong in (OTHER, "nonsense"):
        with pytest.raises(ProtocolError, match="wrong key"):
            keeper.check_again(wrong, "key-0")


def test_a_session_belongs_to_the_key_that_made_it() -> None:
    check_owner("key-0", "key-0")
    with pytest.raises(ProtocolError) as error:
        check_owner("key-0", "key-1")
    assert refused(error) == (ErrorCode.FORBIDDEN, CloseCode.FORBIDDEN)

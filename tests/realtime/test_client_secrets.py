from __future__ import annotations

import pytest

from realtime.client_secrets import MAX_SECRETS, ClientSecrets, Grant, new_session_id


def minted(vault: ClientSecrets, now: float = 0.0, owner: str = "key") -> tuple[str, Grant]:
    made = vault.mint(owner, now)
    assert made is not None
    return made


def test_a_secret_opens_the_session_it_was_made_for_once() -> None:
    vault = ClientSecrets(60)
    secret, grant = minted(vault, 10.0)
    assert vault.redeem(secret, 69.9) == grant and (grant.owner, grant.expires_at) == ("key", 70.0)
    assert vault.redeem(secret, 69.9) is None and len(vault) == 0


@pytest.mark.parametrize("now", [70.0, 70.1, 1e9])
def test_an_old_secret_opens_nothing(now: float) -> None:
    vault = ClientSecrets(60)
    secret, _ = minted(vault, 10.0)
    assert vault.redeem(secret, now) is None and len(vault) == 0


@pytest.mark.parametrize("guess", ["", "pcs_", "key", "\udcff", "x" * 100_000])
def test_a_guess_opens_nothing_and_spends_nothing(guess: str) -> None:
    vault = ClientSecrets(60)
    secret, grant = minted(vault)
    assert vault.redeem(guess, 0.0) is None and vault.redeem(secret, 0.0) == grant


def test_no_two_secrets_or_sessions_are_alike() -> None:
    vault = ClientSecrets(60)
    made = [minted(vault) for _ in range(200)]
    assert len({secret for secret, _ in made}) == len({grant.session_id for _, grant in made}) == 200
    assert all(len(secret) >= 40 and secret not in repr(grant) for secret, grant in made)


def test_unused_secrets_are_bounded_and_expire() -> None:
    vault = ClientSecrets(60)
    for index in range(MAX_SECRETS):
        minted(vault, index / MAX_SECRETS)
    assert vault.mint("key", 1.0) is None and vault.retry_after_s(1.0) == 59.0
    assert vault.mint("key", 60.0) is not None and vault.retry_after_s(60.0) == pytest.approx(1 / MAX_SECRETS)
    assert ClientSecrets(60).retry_after_s(0.0) == 0.0


def test_a_session_id_fits_the_wire_and_cannot_be_guessed() -> None:
    ids = {new_session_id() for _ in range(1000)}
    assert len(ids) == 1000 and all(20 <= len(name) <= 64 for name in ids)

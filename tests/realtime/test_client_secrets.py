from __future__ import annotations

from pathlib import Path

import pytest

from realtime.client_secrets import MAX_SECRETS, ClientSecrets, Grant, new_session_id
from realtime.shared import Alone, SharedFolder


def minted(vault: ClientSecrets, now: float = 0.0, owner: str = "key") -> tuple[str, Grant]:
    made = vault.mint(owner, now)
    assert made is not None
    return made


def test_a_secret_opens_the_session_it_was_made_for_once() -> None:
    vault = ClientSecrets(60, Alone())
    secret, grant = minted(vault, 10.0)
    assert vault.redeem(secret, 69.9) == grant and (grant.owner, grant.expires_at) == ("key", 70.0)
    assert vault.redeem(secret, 69.9) is None


@pytest.mark.parametrize("now", [70.0, 70.1, 1e9])
def test_an_old_secret_opens_nothing(now: float) -> None:
    vault = ClientSecrets(60, Alone())
    secret, _ = minted(vault, 10.0)
    assert vault.redeem(secret, now) is None


@pytest.mark.parametrize("guess", ["", "pcs_", "key", "\udcff", "x" * 100_000])
def test_a_guess_opens_nothing_and_spends_nothing(guess: str) -> None:
    vault = ClientSecrets(60, Alone())
    secret, grant = minted(vault)
    assert vault.redeem(guess, 0.0) is None and vault.redeem(secret, 0.0) == grant


def test_no_two_secrets_or_sessions_are_alike() -> None:
    vault = ClientSecrets(60, Alone())
    made = [minted(vault) for _ in range(200)]
    assert len({secret for secret, _ in made}) == len({grant.session_id for _, grant in made}) == 200
    assert all(len(secret) >= 40 and secret not in repr(grant) for secret, grant in made)


def test_unused_secrets_are_bounded_and_expire() -> None:
    vault = ClientSecrets(60, Alone())
    for index in range(MAX_SECRETS):
        minted(vault, index / MAX_SECRETS)
    assert vault.mint("key", 1.0) is None and vault.retry_after_s(1.0) == 59.0
    assert vault.mint("key", 60.0) is not None and vault.retry_after_s(60.0) == pytest.approx(1 / MAX_SECRETS)
    assert ClientSecrets(60, Alone()).retry_after_s(0.0) == 0.0


def test_a_secret_of_one_process_opens_its_session_once_in_any(tmp_path: Path) -> None:
    SharedFolder.create(tmp_path, 2)
    vaults = [ClientSecrets(60, SharedFolder(tmp_path, index, 2)) for index in range(2)]
    secret, grant = minted(vaults[0], 10.25, owner="kéy")
    assert vaults[1].retry_after_s(20.25) == 50.0
    assert vaults[1].redeem(secret, 70.24) == grant and [vault.redeem(secret, 11.0) for vault in vaults] == [None, None]
    late, _ = minted(vaults[1], 10.25)
    assert vaults[0].redeem(late, 70.25) is None


def test_a_session_id_fits_the_wire_and_cannot_be_guessed() -> None:
    ids = {new_session_id() for _ in range(1000)}
    assert len(ids) == 1000 and all(20 <= len(name) <= 64 for name in ids)

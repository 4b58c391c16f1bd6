from __future__ import annotations

import base64

import pytest

from realtime.auth import ANYBODY, Credential, Gate

KEYS = ["correct-horse", "battery-staple"]


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_without_keys_everybody_is_let_in() -> None:
    gate = Gate([], [])
    assert gate.credential(None) is gate.credential("Bearer x") is Credential.RIGHT and gate.knows("x")


@pytest.mark.parametrize("key", KEYS)
def test_each_key_opens_the_gate_in_every_spelling(key: str) -> None:
    gate = Gate(KEYS, [])
    for header in (f"Bearer {key}", f"bearer  {key}", basic(f"me:{key}"), basic(f":{key}")):
        assert gate.credential(header) is Credential.RIGHT
    assert gate.knows(key)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer correct-hors",
        "Bearer correct-horse2",
        "Bearer \udcff",
        "correct-horse",
        "Digest correct-horse",
        "Basic correct-horse",
        "Basic !!!",
        "Basic /w==",
        basic("correct-horse"),
        basic("correct-horse:x"),
    ],
)
def test_anything_else_does_not(header: str) -> None:
    assert Gate(KEYS, []).credential(header) is Credential.WRONG


def test_each_key_has_an_owner_of_its_own_that_does_not_tell_it() -> None:
    gate = Gate(KEYS, [])
    owners = [gate.owner(key) for key in KEYS]
    assert len(set(owners)) == 2 and not set(owners) & set(KEYS)
    for key, owner in zip(KEYS, owners, strict=True):
        assert gate.bearer(f"Bearer {key}") == gate.bearer(basic(f"me:{key}")) == owner
    for wrong in (None, "", "Bearer wrong", "Basic !!!"):
        assert gate.bearer(wrong) is None
    assert gate.owner("wrong") is None


def test_without_keys_everything_belongs_to_anybody() -> None:
    gate = Gate([], [])
    assert gate.bearer(None) == gate.bearer("Bearer x") == gate.owner("y") == ANYBODY


def test_no_header_is_not_a_wrong_one() -> None:
    assert Gate(KEYS, []).credential(None) is Credential.NONE


@pytest.mark.parametrize(
    ("origin", "host", "trusted"),
    [
        (None, "anything", True),
        ("http://localhost:8300", "localhost:8300", True),
        ("http://127.0.0.1:8300", "127.0.0.1:8300", True),
        ("http://[::1]:8300", "[::1]:8300", True),
        ("http://app.localhost:8300", "app.localhost:8300", True),
        ("http://192.168.1.5:8300", "192.168.1.5:8300", True),
        ("http://LOCALHOST:8300", "localhost:8300", True),
        ("http://localhost:3000", "localhost:8300", False),
        ("https://evil.example", "localhost:8300", False),
        ("http://evil.example:8300", "evil.example:8300", False),  # whose DNS says 127.0.0.1
        ("http://localhost.evil.example", "localhost.evil.example", False),
        ("null", "localhost:8300", False),
        ("", "", False),
        ("http://localhost:8300", None, False),
        ("https://good.example", "localhost:8300", True),
    ],
)
def test_only_pages_of_the_server_itself_and_allowed_ones_may_connect(
    origin: str | None, host: str | None, trusted: bool
) -> None:
    assert Gate([], ["https://good.example/"]).trusts(origin, host) is trusted


def test_with_a_key_the_server_may_have_any_name() -> None:
    assert Gate(KEYS, []).trusts("https://voice.example", "voice.example")
    assert not Gate(KEYS, []).trusts("https://evil.example", "voice.example")


def test_all_origins_can_be_allowed() -> None:
    assert Gate([], ["*"]).trusts("https://anybody.example", "localhost:8300")


def test_keys_of_other_vendors_clients_are_known_by_every_header() -> None:
    gate = Gate(KEYS, [])
    for headers in (
        {"authorization": f"Bearer {KEYS[0]}"},
        {"authorization": f"Token {KEYS[0]}"},
        {"xi-api-key": KEYS[0]},
        {"x-api-key": f" {KEYS[0]} "},
        {"x-api-key": KEYS[0], "authorization": f"Bearer {KEYS[0]}"},
    ):
        assert gate.of_headers(headers) == (Credential.RIGHT, "key-0")


def test_every_key_that_is_shown_must_be_right_and_the_same() -> None:
    gate = Gate(KEYS, [])
    assert gate.of_headers({}) == (Credential.NONE, None)
    for headers in (
        {"x-api-key": "wrong"},
        {"x-api-key": ""},
        {"x-api-key": KEYS[0], "authorization": "Bearer wrong"},
        {"x-api-key": KEYS[0], "xi-api-key": KEYS[1]},
        {"authorization": KEYS[0]},
    ):
        assert gate.of_headers(headers) == (Credential.WRONG, None)
    assert Gate([], []).of_headers({"x-api-key": "anything"})[0] is Credential.RIGHT

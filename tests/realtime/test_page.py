"""What a browser may do with the page, as the server tells it."""

from __future__ import annotations

import httpx
import pytest
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from realtime.scripted import ScriptedEngine
from realtime.settings import Settings, SettingsError, read_settings
from tests.realtime.sockets import PLAINLY, live, serving, to_the_end


def policy(settings: Settings) -> dict[str, list[str]]:
    """The page's Content-Security-Policy: each rule with its sources."""
    with serving(ScriptedEngine(), settings) as url:
        rules = httpx.get(url, trust_env=False).headers["content-security-policy"].split("; ")
    return {name: sources for name, *sources in (rule.split() for rule in rules)}


def test_the_page_may_ask_a_language_model_anywhere_and_load_code_from_nowhere_else() -> None:
    rules = policy(Settings(port=0))
    assert rules["default-src"] == ["'self'"] and rules["script-src"] == ["'self'", "'wasm-unsafe-eval'"]
    assert rules["connect-src"] == ["'self'", "https:", "http://127.0.0.1:*", "http://localhost:*"]


@pytest.mark.parametrize(
    ("said", "sources"), [("'none'", []), ("https://llm.example, wss:", ["https://llm.example", "wss:"])]
)
def test_the_operator_narrows_where_the_page_may_connect(said: str, sources: list[str]) -> None:
    settings = read_settings({"PARLEY_PAGE_CONNECTS_TO": said}, {"port": 0})
    assert policy(settings)["connect-src"] == ["'self'", *sources]


@pytest.mark.parametrize("source", ["https://a.example; script-src *", "https://a.example https://b.example", ""])
def test_a_source_cannot_bring_another_rule(source: str) -> None:
    with pytest.raises(SettingsError, match="page_connects_to"):
        read_settings({}, {"page_connects_to": (source,)})


def test_the_page_may_ask_for_the_microphone() -> None:
    with serving(ScriptedEngine()) as url:
        permissions = httpx.get(url, trust_env=False).headers["permissions-policy"]
    assert "microphone=(self)" in permissions and "camera=()" in permissions


def test_a_socket_of_the_page_that_is_refused_is_told_why() -> None:
    with serving(ScriptedEngine()) as url:
        page, subprotocol = Origin(url), Subprotocol("live.v1")
        with connect(f"{live(url)}?resume=nobody", origin=page, subprotocols=[subprotocol], **PLAINLY) as ws:
            assert ws.subprotocol == subprotocol, "a browser takes no answer without it"
            said, code = to_the_end(ws)
    assert [event["code"] for event in said] == ["unknown_session"] and code == 4404

"""The routes of HTTP, with and without a key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.api import ModelInfo
from protocol.config import Limits
from realtime.scripted import Script, ScriptedEngine
from realtime.server import create_app
from realtime.settings import Settings
from tests.realtime.sockets import (
    KEY,
    RIGHT,
    WRONG,
    client,
    live,
    serving,
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(ScriptedEngine(Script(step_s=0.001, max_streams=64))) as address:
        yield address


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    settings = Settings(port=0, keys=(KEY,), limits=Limits(unauthenticated_s=1), max_unauthenticated=2)  # type: ignore[arg-type]
    with serving(ScriptedEngine(), settings) as address:
        yield address


ROUTES = ["/", "/app.js", "/health/live", "/health/ready", "/v1/models", "/nothing"]


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_asks_for_the_key(guarded: str, route: str) -> None:
    with httpx.Client(base_url=guarded, trust_env=False) as web:
        for headers in ({}, WRONG):
            refused = web.get(route, headers=headers)
            assert refused.status_code == 401 and refused.json()["error"]["code"] == "unauthorized"
            assert "Bearer" in refused.headers["www-authenticate"] and "Basic" in refused.headers["www-authenticate"]
        assert web.get(route, headers=RIGHT).status_code == (404 if route == "/nothing" else 200)
        assert web.get(route, auth=("anybody", KEY)).status_code == (404 if route == "/nothing" else 200)


# HTTP


def test_an_engine_that_has_not_spoken_is_live_and_not_ready() -> None:
    async def scene() -> None:
        app = create_app(Settings(), ScriptedEngine())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as web:
            assert (await web.get("/health/live")).json() == {"status": "live"}
            ready = await web.get("/health/ready")
            assert ready.status_code == 503 and ready.json() == {"status": "warming_up"}

    asyncio.run(scene())


def test_the_model_is_listed_with_what_must_be_said_of_it(tmp_path: Path) -> None:
    info = ModelInfo("fishaudio/s2-pro", 44100, 2048, 10, 40.0, attribution="This model is licensed.")

    async def scene() -> dict[str, Any]:
        app = create_app(Settings(voices_dir=tmp_path), ScriptedEngine(info=info))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as web:
            listed: dict[str, Any] = (await web.get("/v1/models")).json()
            return listed

    listed = asyncio.run(scene())
    (model,) = listed["data"]
    assert listed["object"] == "list" and model["id"] == "fishaudio/s2-pro" and model["voices"] == ["default"]
    assert model["attribution"] == "This model is licensed."
    assert (model["sample_rate"], model["device"], model["dtype"]) == (44100, "cpu", "float32")
    assert "scripts" not in model, "it takes every text"


def test_the_page_is_served_with_a_strict_policy_and_asks_nobody_else(url: str) -> None:
    with httpx.Client(base_url=url, trust_env=False) as web:
        page = web.get("/")
        assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert "http://" not in page.text and "https://" not in page.text
        assert web.get("/../pyproject.toml").status_code == 404
        assert web.get("/%2e%2e/pyproject.toml").status_code == 404
        assert web.post("/v1/models").status_code == 405


# Secrets for browsers


def test_a_secret_is_told_to_who_has_the_key_and_kept_by_nobody(guarded: str) -> None:
    with httpx.Client(base_url=guarded, trust_env=False) as web:
        assert web.post("/v1/sessions").status_code == web.post("/v1/sessions", headers=WRONG).status_code == 401
        answer = web.post("/v1/sessions", headers=RIGHT, content="{}")
        assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
        made = answer.json()
        assert made["ws_url"] == live(guarded) and set(made) == {"session", "client_secret", "ws_url", "expires_at"}
        assert 0 < made["expires_at"] / 1000 - time.time() <= 60
        assert web.post("/v1/sessions", headers=RIGHT).json()["client_secret"] != made["client_secret"]


@pytest.mark.parametrize("content", ['{"voice": "anna"}', "[]", "x" * 100_000])
def test_what_would_be_ignored_is_refused(guarded: str, content: str) -> None:
    answer = httpx.post(f"{guarded}/v1/sessions", headers=RIGHT, content=content, trust_env=False)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "bad_message"


def test_a_foreign_page_gets_no_secret_of_an_open_server(url: str) -> None:
    foreign = httpx.post(f"{url}/v1/sessions", headers={"Origin": "https://evil.example"}, trust_env=False)
    assert foreign.status_code == 403 and foreign.json()["error"]["code"] == "forbidden"
    assert httpx.post(f"{url}/v1/sessions", headers={"Origin": url}, trust_env=False).status_code == 201


def test_clients_are_sent_to_the_address_that_the_operator_names() -> None:
    settings = Settings(port=0, public_url="https://voice.example")
    with serving(ScriptedEngine(), settings) as url:
        made = httpx.post(f"{url}/v1/sessions", trust_env=False).json()
    assert made["ws_url"] == "wss://voice.example/v1/live"


def test_a_full_server_makes_no_secrets() -> None:
    with serving(ScriptedEngine(), Settings(port=0, max_sessions=1)) as url, client(url):
        answer = httpx.post(f"{url}/v1/sessions", trust_env=False)
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0

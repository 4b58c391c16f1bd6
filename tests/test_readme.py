"""What the README shows is run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.realtime.running import running_server

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_client_plays_a_turn() -> None:
    code, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    played: list[bytes] = []
    with running_server() as (url, _):
        exec(
            code.replace("http://127.0.0.1:8300", url).replace("ws://127.0.0.1:8300", url.replace("http", "ws")),
            {"play": played.append},
        )
    assert sum(map(len, played)) > 24000  # at least half a second at 24 kHz, 16 bits


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([\w./-]+)\)", README))))
def test_what_it_links_to_exists(path: str) -> None:
    assert (Path(__file__).parents[1] / path).exists()

"""The README's example of a language model aloud is run: a real server, and a language model's server over real HTTP."""

from __future__ import annotations

import re
from pathlib import Path

from tests.realtime.language_model import WrittenAnswers, language_model
from tests.realtime.running import running_server

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_a_language_model_is_heard() -> None:
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "chat/completions" in block)
    assert len([line for line in code.splitlines() if line]) <= 20
    played: list[bytes] = []
    model = WrittenAnswers(["Why did the chicken cross the road?"])
    with running_server() as (url, _), language_model(model) as llm:
        here = code.replace("ws://127.0.0.1:8300", url.replace("http", "ws")).replace("http://127.0.0.1:11434/v1", llm)
        exec(here, {"play": played.append})
    assert model.asked[0]["messages"] == [{"role": "user", "content": "Tell me a joke."}]
    assert played

"""A language model behind an OpenAI-compatible address, as far as a talk with it needs: messages in, text as it is written out.

Knows `POST {base}/chat/completions` with `stream` and `GET {base}/models`, as OpenAI, vLLM, llama.cpp and Ollama serve them. Does not know
speech, nor what stands in the messages. Source: OpenAI's API reference, "Chat Completions" and "Streaming".
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Final, TypedDict

import httpx2

CONNECT_S: Final = 10.0
SILENCE_S: Final = 120.0  # before the first token a model on a CPU may read its prompt for a minute
DETAIL_CHARS: Final = 300  # of an error page that somebody has to read in one line
_DATA: Final = "data:"
_END: Final = "[DONE]"


class Message(TypedDict):
    """One entry of a conversation, as it travels."""

    role: str  # system, user or assistant
    content: str


@dataclass
class LlmError(Exception):
    """The language model could not be reached, or refused."""

    url: str
    detail: str
    status: int | None = None  # HTTP; None: there was no answer, or it broke off

    def __str__(self) -> str:
        return f"{self.url}{f' answers {self.status}' if self.status else ''}: {self.detail}"


class LanguageModel:
    """One model. Use it as an async context manager; its connection is kept between answers."""

    def __init__(self, base_url: str, model: str | None = None, key: str | None = None) -> None:
        """base_url: up to and with the version, such as http://127.0.0.1:11434/v1. model: None takes the only one that there is."""
        self._base = base_url.rstrip("/").removesuffix("/chat/completions")
        self._model = model
        self._http = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key is not None else {},
            timeout=httpx2.Timeout(SILENCE_S, connect=CONNECT_S),
        )

    async def __aenter__(self) -> LanguageModel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def name(self) -> str:
        """The model's name; asks the server once if nobody gave it. Raises LlmError where it has none, or several."""
        if self._model is None:
            url = f"{self._base}/models"
            try:
                answer = await self._http.get(url)
                if answer.is_error:
                    raise LlmError(url, _detail(answer.text), answer.status_code)
                names = [str(model["id"]) for model in answer.json()["data"]]
            except (httpx2.TransportError, httpx2.InvalidURL) as error:
                raise LlmError(url, str(error) or type(error).__name__) from error
            except (ValueError, KeyError, TypeError) as error:
                raise LlmError(url, "this is no list of models; name one with --llm-model") from error
            if len(names) != 1:
                raise LlmError(url, f"name one of its models with --llm-model: {', '.join(names) or 'it has none'}")
            self._model = names[0]
        return self._model

    async def answer(self, messages: Sequence[Message]) -> AsyncGenerator[str, None]:
        """The model's next message as it is written. Closing the iterator lets the model stop. Raises LlmError."""
        url = f"{self._base}/chat/completions"
        body = {"model": await self.name(), "messages": list(messages), "stream": True}
        try:
            async with self._http.stream("POST", url, json=body) as response:
                if response.is_error:
                    text = (await response.aread()).decode("utf-8", "replace")
                    raise LlmError(url, _detail(text), response.status_code)
                async for line in response.aiter_lines():
                    if not line.startswith(_DATA):  # comments keep the connection alive; other fields say nothing new
                        continue
                    data = line.removeprefix(_DATA).strip()
                    if data == _END:
                        return
                    if text := _text(url, data):
                        yield text
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise LlmError(url, str(error) or type(error).__name__) from error


def _text(url: str, data: str) -> str:
    """The text of one event; empty for those that carry roles, reasons, thoughts or usage."""
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise LlmError(url, _detail(data))
        choices = chunk["choices"]
        content = choices[0].get("delta", {}).get("content") if choices else None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise LlmError(url, f"this is no event of a chat completion: {data[:DETAIL_CHARS]}") from error
    return content if isinstance(content, str) else ""


def _detail(text: str) -> str:
    """What an error says, as OpenAI's API packs it or as it came."""
    try:
        error = json.loads(text)["error"]
        text = error if isinstance(error, str) else str(error["message"])
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:DETAIL_CHARS] or "no reason given"

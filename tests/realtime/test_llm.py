"""A language model over real HTTP: what is asked, what is read, and what goes wrong."""

import threading

import anyio
import pytest

from realtime.llm import LanguageModel, LlmError, Message
from tests.realtime.language_model import WrittenAnswers, language_model

ASKED: list[Message] = [{"role": "user", "content": "Good morning"}]


async def answer(url: str, model: str | None = None, key: str | None = None) -> list[str]:
    async with LanguageModel(url, model, key) as llm:
        return [piece async for piece in llm.answer(ASKED)]


def test_an_answer_comes_in_pieces_and_nothing_but_its_text() -> None:
    model = WrittenAnswers(["Hello there, my friend."])
    with language_model(model) as url:
        assert anyio.run(answer, url) == ["Hello", " ther", "e, my", " frie", "nd."]
    assert model.asked == [{"model": "toy", "messages": ASKED, "stream": True}]


@pytest.mark.parametrize("suffix", ["", "/", "/chat/completions"])
def test_the_address_may_be_written_as_people_write_it(suffix: str) -> None:
    with language_model(WrittenAnswers(["Hello"])) as url:
        assert anyio.run(answer, url + suffix, "toy") == ["Hello"]


def test_a_key_is_shown_and_a_model_that_is_named_is_asked_for() -> None:
    model = WrittenAnswers(["Hello"], models=())
    with language_model(model) as url:
        anyio.run(answer, url, "named", "a-key")
    assert model.keys == ["Bearer a-key"]
    assert model.asked[0]["model"] == "named"


@pytest.mark.parametrize(("models", "said"), [((), "it has none"), (("one", "two"), "one, two")])
def test_which_model_is_not_guessed(models: tuple[str, ...], said: str) -> None:
    with language_model(WrittenAnswers([], models)) as url, pytest.raises(LlmError, match=said):
        anyio.run(answer, url)


def test_an_error_page_is_quoted_with_its_status() -> None:
    model = WrittenAnswers([])
    model.status, model.page = 429, '{"error": {"message": "come back\\nlater"}}'
    with language_model(model) as url, pytest.raises(LlmError, match=r"completions answers 429: come back later$"):
        anyio.run(answer, url, "toy")


def test_an_error_in_the_middle_of_an_answer_is_an_error() -> None:
    model = WrittenAnswers(["Hello"])
    model.ending = ['data: {"error": "out of memory"}']
    with language_model(model) as url, pytest.raises(LlmError, match="out of memory"):
        anyio.run(answer, url)


@pytest.mark.parametrize("line", ["data: no JSON", "data: 5", 'data: {"choices": 5}'])
def test_what_is_no_event_is_an_error(line: str) -> None:
    model = WrittenAnswers(["Hello"])
    model.ending = [line]
    with language_model(model) as url, pytest.raises(LlmError, match="no event of a chat completion"):
        anyio.run(answer, url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://[broken/v1"])
def test_nobody_at_the_address_is_said(url: str) -> None:
    with pytest.raises(LlmError, match=r"^http"):
        anyio.run(answer, url, "toy")


def test_closing_the_iterator_hangs_up() -> None:
    """A model that goes on writing for nobody would keep the next question waiting."""
    model = WrittenAnswers(["Hello " * 100_000], piece_chars=6_000)
    left = threading.Event()
    model.hold = lambda piece: None if piece < 3 else (left.wait(60), None)[1]

    async def first_piece() -> str:
        async with LanguageModel(url, "toy") as llm:
            pieces = llm.answer(ASKED)
            async for piece in pieces:
                await pieces.aclose()
                left.set()
                return piece
        raise AssertionError("it said nothing")

    with language_model(model) as url:
        assert anyio.run(first_piece).startswith("Hello")
        assert model.hung_up.wait(60)

"""Typing into real pipes and pseudo-terminals."""

import os
import termios
from collections.abc import Iterator

import anyio
import pytest

from realtime.keyboard import Keyboard

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def pipe() -> Iterator[tuple[Keyboard, int]]:
    reader, writer = os.pipe()
    yield Keyboard(reader), writer
    os.close(reader)


@pytest.fixture
def terminal() -> Iterator[tuple[Keyboard, int]]:
    """The keyboard, and where its person types."""
    person, computer = os.openpty()
    yield Keyboard(computer), person
    os.close(person)
    os.close(computer)


async def test_lines_of_a_pipe_come_one_by_one_and_the_last_needs_no_end(pipe: tuple[Keyboard, int]) -> None:
    keyboard, writer = pipe
    os.write(writer, "one\ntwo ä\x1b\n\nrest".encode())
    os.close(writer)
    assert [await keyboard.line() for _ in range(5)] == ["one", "two ä", "", "rest", None]
    assert not keyboard.is_terminal


async def test_a_pipe_never_interrupts(pipe: tuple[Keyboard, int]) -> None:
    keyboard, writer = pipe
    os.write(writer, b"one\n")
    with anyio.move_on_after(0) as waited:
        await keyboard.key()
    assert waited.cancelled_caught
    os.close(writer)
    assert await keyboard.line() == "one"


async def test_the_first_key_is_noticed_and_begins_the_next_line(terminal: tuple[Keyboard, int]) -> None:
    keyboard, person = terminal
    with anyio.fail_after(60):
        os.write(person, b"w")
        await keyboard.key()
        os.write(person, b"ait\n")
        assert await keyboard.line() == "wait"


async def test_ctrl_d_ends_also_where_single_keys_are_noticed(terminal: tuple[Keyboard, int]) -> None:
    keyboard, person = terminal
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keyboard.key)
            await anyio.wait_all_tasks_blocked()
            os.write(person, b"\x04")
        assert await keyboard.line() is None


async def test_a_terminal_is_left_as_it_was_found_also_by_a_task_that_is_cancelled(
    terminal: tuple[Keyboard, int],
) -> None:
    keyboard, _ = terminal
    before = termios.tcgetattr(keyboard._fd)
    with anyio.move_on_after(0):
        await keyboard.key()
    assert termios.tcgetattr(keyboard._fd) == before


async def test_a_line_of_a_terminal_can_be_edited(terminal: tuple[Keyboard, int]) -> None:
    keyboard, person = terminal
    with anyio.fail_after(60):
        os.write(person, b"good\x7f\x7fne\n")
        assert await keyboard.line() == "gone"

"""Deltas from file descriptors of every kind."""

import os
from pathlib import Path

import anyio

from realtime.typed_text import read_deltas

TEXT = "Grüße, 世界 \U0001f30d!"


def deltas(fd: int) -> list[str]:
    async def read() -> list[str]:
        return [delta async for delta in read_deltas(fd)]

    return anyio.run(read)


def test_each_write_into_a_pipe_is_a_delta_of_its_own_as_soon_as_it_is_there() -> None:
    reader, writer = os.pipe()

    async def talk() -> list[str]:
        heard = []
        os.write(writer, b"Hello")
        async for delta in read_deltas(reader):
            heard.append(delta)
            if len(heard) == 1:
                os.write(writer, b" there")
            else:
                os.close(writer)
        return heard

    assert anyio.run(talk) == ["Hello", " there"]
    os.close(reader)


def test_a_character_that_is_cut_in_two_is_put_together() -> None:
    reader, writer = os.pipe()
    data = TEXT.encode()

    async def talk() -> str:
        os.write(writer, data[:1])
        heard, sent = "", 1
        async for delta in read_deltas(reader):
            heard += delta
            assert "\ufffd" not in heard
            # Bytes go in until the next whole character can come out.
            while sent < len(data):
                sent += 1
                os.write(writer, data[sent - 1 : sent])
                if data[:sent].decode(errors="ignore") != data[: sent - 1].decode(errors="ignore"):
                    break
            else:
                os.close(writer)
        return heard

    assert anyio.run(talk) == TEXT
    os.close(reader)


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"a\xffb\xe4")
    os.close(writer)
    assert "".join(deltas(reader)) == "a\ufffdb\ufffd"
    os.close(reader)


def test_a_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(TEXT * 20_000, encoding="utf-8")
    with path.open("rb") as file:
        assert "".join(deltas(file.fileno())) == TEXT * 20_000


def test_the_null_device_says_nothing() -> None:
    with open(os.devnull, "rb") as null:
        assert deltas(null.fileno()) == []


def test_waiting_for_text_can_be_cancelled() -> None:
    reader, writer = os.pipe()

    async def wait() -> bool:
        with anyio.move_on_after(0.01) as scope:
            async for _ in read_deltas(reader):
                raise AssertionError("nobody wrote")
        return scope.cancelled_caught

    assert anyio.run(wait)
    os.close(reader)
    os.close(writer)

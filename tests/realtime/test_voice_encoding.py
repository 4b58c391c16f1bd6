from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from engine.api import Busy, Codes, EngineError, Samples, SynthesisFailed
from realtime import voice_encoding
from realtime.loudness import REFERENCE_LUFS, loudness_lufs
from realtime.recording_file import RecordingRefused
from realtime.scripted import MINI_LIKE, ScriptedEngine
from realtime.voice_encoding import VoiceEncoder
from realtime.voice_folder import NewSource
from realtime.voices import VoiceNotEncoded, VoiceNotFound, VoiceStore, VoiceUnusable
from tests.realtime.speechlike import clean, file

ONE, TWO = file(clean(3.0, 1)), file(clean(3.5, 2))


class Counting(ScriptedEngine):
    """Says how often it encoded, and fails as often as it is told to."""

    def __init__(self, codec_id: str = "codec-a", errors: list[EngineError] | None = None) -> None:
        super().__init__(info=replace(MINI_LIKE, codec_id=codec_id))
        self.encoded: list[float] = []  # seconds of each recording
        self.lufs: list[float] = []  # loudness of each recording
        self.errors = errors or []

    async def encode(self, samples: Samples, sample_rate: int) -> Codes:
        self.encoded.append(len(samples) / sample_rate)
        self.lufs.append(loudness_lufs(samples, sample_rate))
        await anyio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        return await super().encode(samples, sample_rate)


def over(folder: Path, engine: Counting) -> tuple[VoiceStore, VoiceEncoder]:
    store = VoiceStore(folder, engine.info.codebooks, engine.info.codec_id)
    return store, VoiceEncoder(store, engine.encode)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    anyio.run(test)


def test_a_recording_is_encoded_once_however_many_ask(tmp_path: Path) -> None:
    async def test() -> None:
        engine = Counting()
        store, encoder = over(tmp_path, engine)
        store.files.add("anna", [NewSource(ONE, "Eins."), NewSource(TWO, "Zwei.")])
        store.files.add("bert", [NewSource(ONE, "Anders.")])
        async with anyio.create_task_group() as tasks:
            for name in ("anna", "bert", "anna"):
                tasks.start_soon(encoder.ready, name)
        assert sorted(engine.encoded) == [3.0, 3.5]
        voice = await encoder.ready("anna")
        again = await over(tmp_path, engine)[1].ready("anna")
        assert len(engine.encoded) == 2 and again.id == voice.id
        assert [reference.text for reference in voice.references] == ["Eins.", "Zwei."]

    run(test)


def test_another_codec_encodes_for_itself(tmp_path: Path) -> None:
    async def test() -> None:
        for codec_id in ("codec-a", "codec-b"):
            engine = Counting(codec_id)
            store, encoder = over(tmp_path, engine)
            if codec_id == "codec-a":
                store.files.add("anna", [NewSource(ONE, "Eins.")])
            await encoder.ready("anna")
            assert len(engine.encoded) == 1

    run(test)


def test_loud_and_soft_recordings_are_equally_loud_to_the_model(tmp_path: Path) -> None:
    async def test() -> None:
        engine = Counting()
        store, encoder = over(tmp_path, engine)
        soft, loud = file(clean(3.0, 1) * 0.03), file(clean(3.0, 2) * 1.5)
        store.files.add("soft", [NewSource(soft, "Eins.")])
        store.files.add("loud", [NewSource(loud, "Zwei.")])
        await encoder.ready("soft")
        await encoder.ready("loud")
        await encoder.inline([(soft, "Eins.")])
        assert engine.lufs == pytest.approx([REFERENCE_LUFS] * 3, abs=0.2)

    run(test)


def test_codes_from_before_recordings_were_levelled_are_made_again(tmp_path: Path) -> None:
    async def test() -> None:
        engine = Counting()
        store, encoder = over(tmp_path, engine)
        codes = np.zeros((engine.info.codebooks, 3), np.int16)
        store.files.add("anna", [NewSource(ONE, "Eins.")], [codes], engine.info.codec_id)
        await encoder.ready("anna")
        assert engine.encoded == [3.0]

    run(test)


def test_what_is_no_voice_is_told_as_the_store_tells_it(tmp_path: Path) -> None:
    async def test() -> None:
        store, encoder = over(tmp_path, Counting())
        assert (await encoder.ready("default")).references == ()
        with pytest.raises(VoiceNotFound):
            await encoder.ready("nobody")
        store.files.add("odd", [NewSource(b"no sound", "Eins.")])
        with pytest.raises(VoiceUnusable, match="its recording is no sound"):
            await encoder.ready("odd")

    run(test)


def test_an_engine_that_fails_leaves_the_voice_for_the_next_try(tmp_path: Path) -> None:
    async def test() -> None:
        store, encoder = over(tmp_path, Counting(errors=[Busy()]))
        store.files.add("anna", [NewSource(ONE, "Eins.")])
        with pytest.raises(Busy):
            await encoder.ready("anna")
        with pytest.raises(VoiceNotEncoded):
            store.get("anna")
        assert len((await encoder.ready("anna")).references) == 1

    run(test)


def test_a_folder_that_cannot_be_written_costs_an_encoding_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        engine = Counting()
        store, encoder = over(tmp_path, engine)
        store.files.add("anna", [NewSource(ONE, "Eins.")])
        (tmp_path / ".lock").unlink()
        (tmp_path / ".lock").mkdir()  # nobody can write now, root included
        assert len((await encoder.ready("anna")).references) == 1
        assert (await encoder.ready("anna")).id == store.get("anna").id
        assert len(engine.encoded) == 1

    run(test)
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("codes of voice 'anna' cannot be written and are made again after a restart: ")


def test_what_comes_into_the_folder_is_encoded_before_anybody_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken voice and a busy engine are in the way; neither is tried for ever, nor given up."""
    monkeypatch.setattr(voice_encoding, "LOOK_EVERY_S", 0.0)

    async def test() -> None:
        engine = Counting(errors=[Busy(), SynthesisFailed("bad_audio", "it holds nothing")])
        store, encoder = over(tmp_path, engine)
        store.files.add("anna", [NewSource(ONE, "Eins.")])
        store.files.add("odd", [NewSource(b"no sound", "Eins.")])
        (tmp_path / "zero.json").write_text("{}")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(encoder.keep_up)
            with anyio.fail_after(60):
                while len(engine.encoded) < 2:
                    await anyio.lowlevel.checkpoint()
                store.files.add("cara", [NewSource(TWO, "Zwei.")])
                while store.missing("cara"):
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        assert engine.encoded == [3.0, 3.0, 3.5], "busy: tried again; refused: not"

    with caplog.at_level(logging.INFO, "parley.voices"):
        run(test)
    told = [record.getMessage() for record in caplog.records]
    assert sum("odd" in line for line in told) == sum("zero" in line for line in told) == 1
    assert "voice 'anna' cannot be encoded: it holds nothing" in told and told[-1] == "voice encoded"


def test_recordings_that_come_with_a_request_are_encoded_once_and_not_stored(tmp_path: Path) -> None:
    async def test() -> None:
        engine = Counting()
        _, encoder = over(tmp_path, engine)
        first = await encoder.inline([(ONE, "Eins."), (TWO, "Zwei.")])
        second = await encoder.inline([(ONE, "Eins.")])
        assert len(engine.encoded) == 2 and first.id != second.id
        assert (await encoder.inline([(ONE, "Eins.")])).id == second.id
        assert np.array_equal(first.references[0].codes, second.references[0].codes)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(RecordingRefused, match="no sound"):
            await encoder.inline([(b"", "x")])

    run(test)


def test_no_more_recordings_of_requests_are_kept_than_the_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voice_encoding, "KEPT_INLINE", 1)

    async def test() -> None:
        engine = Counting()
        _, encoder = over(tmp_path, engine)
        for audio in (ONE, TWO, TWO, ONE):
            await encoder.inline([(audio, "x")])
        assert engine.encoded == [3.0, 3.5, 3.0]

    run(test)

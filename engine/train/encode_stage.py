"""Stage `encode`: shards of audio become packed training rows of codes; used-up shards are deleted.

Knows batches of clips of like length. Does not know the language model.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine.codec import Codec
from engine.codec_weights import load_codec
from engine.train.designs import Design
from engine.train.render import FRAME_SAMPLES
from engine.train.synthesize import Shard
from engine.train.tokens import Array, Packer, Rows, conversation_tokens, stack_rows

_AHEAD = 24  # shards of one look into the folder
# Clips are padded to one of these lengths, and batches to a full one: every shape is compiled by itself, because the codec's
# paddings make compilation with symbolic lengths endless.
_LENGTHS = (96, 192, 384)  # frames, 4.5 to 18 s


@dataclass(frozen=True, slots=True)
class EncodePlan:
    """What to read and write."""

    shards: Path
    rows: Path  # folder for rows-*.npz
    checkpoint: Path  # folder with the codec
    follow_s: float = 0.0  # go on until no new shard has come for so long
    batch_frames: int = 18432
    compile: bool = True
    keep: bool = False  # do not delete shards
    share: tuple[int, int] = (0, 1)  # (which, of how many) equal parts of the shards this process takes


class ClipEncoder:
    """Encodes many clips of different lengths."""

    def __init__(self, codec: Codec, batch_frames: int, compiled: bool) -> None:
        self._codec, self._batch_frames, self._compiled = codec, batch_frames, compiled
        self._encode = torch.compile(codec.encode, dynamic=False) if compiled else codec.encode
        self._device = next(codec.parameters()).device

    @torch.inference_mode()
    def __call__(self, audio: npt.NDArray[np.int16], frames: list[int]) -> list[Array]:
        """Codes [K, n] of consecutive clips in `audio`, n frames each as `frames` says."""
        starts = np.concatenate([[0], np.cumsum(frames)])[:-1]
        samples = torch.from_numpy(audio).to(self._device)
        out: dict[int, Array] = {}
        for length, batch in self._batches(frames):
            rows = max(1, self._batch_frames // length) if self._compiled and length in _LENGTHS else len(batch)
            padded = torch.zeros(rows, length * FRAME_SAMPLES, device=self._device)
            for row, i in enumerate(batch):
                part = samples[starts[i] * FRAME_SAMPLES : (starts[i] + frames[i]) * FRAME_SAMPLES]
                padded[row, : len(part)] = part / 32768
            encode = self._encode if length in _LENGTHS else self._codec.encode
            codes: Tensor = encode(padded).to(torch.int16).cpu()
            out |= {i: codes[row, :, : frames[i]].numpy() for row, i in enumerate(batch)}
        return [out[i] for i in range(len(frames))]

    @torch.inference_mode()
    def rehearse(self) -> None:
        """Compile every shape on silence."""
        for length in _LENGTHS:
            self._encode(torch.zeros(self._batch_frames // length, length * FRAME_SAMPLES, device=self._device))

    def _batches(self, frames: list[int]) -> Iterator[tuple[int, list[int]]]:
        """(length, clips): what is to the right of a clip changes nothing in a causal encoder."""
        left = sorted(range(len(frames)), key=frames.__getitem__)
        for length in _LENGTHS:
            fitting = [i for i in left if frames[i] <= length]
            left = left[len(fitting) :]
            most = max(1, self._batch_frames // length)
            yield from ((length, fitting[at : at + most]) for at in range(0, len(fitting), most))
        yield from ((frames[i], [i]) for i in left)


def encode(design: Design, plan: EncodePlan, device: torch.device) -> None:
    """Encode every shard there is, and those that come while `follow_s` lasts."""
    plan.rows.mkdir(parents=True, exist_ok=True)
    codec = Codec(design.codec_config()).to(device).eval().requires_grad_(False)
    encoder = ClipEncoder(codec, plan.batch_frames, plan.compile)
    if plan.compile:
        encoder.rehearse()
    while not (plan.checkpoint / "codec.json").is_file():  # the file that `save_codec` writes last
        time.sleep(0.5)  # this stage was started beside `codec`
    codec.load_state_dict(load_codec(plan.checkpoint, device).state_dict())
    end_column = design.model_config().n_semantic
    waited, seconds, start = time.monotonic(), 0.0, time.monotonic()
    done: set[str] = set()
    with (
        ThreadPoolExecutor(1) as reader,
        ThreadPoolExecutor(1) as writer,
    ):  # the device waits for neither disk nor packing
        packing: list[Future[None]] = []
        while True:
            paths = [
                path for path in sorted(plan.shards.glob("shard-*.npz")) if path.name not in done and _own(path, plan)
            ]
            for path, shard in zip(paths, reader.map(Shard.load, paths[:_AHEAD]), strict=False):
                packing.append(
                    writer.submit(_pack_and_save, shard, encoder(shard.audio, _lengths(shard)), end_column, plan, path)
                )
                while len(packing) > 2:
                    packing.pop(0).result()
                done.add(path.name)
                seconds += len(shard.audio) / 22050
                waited = time.monotonic()
            if paths:
                print(f"[encode] {seconds / 3600:.1f} h in {time.monotonic() - start:.0f} s", flush=True)
            elif time.monotonic() - waited > plan.follow_s:
                break
            else:
                time.sleep(0.5)
        for future in packing:
            future.result()


def _own(path: Path, plan: EncodePlan) -> bool:
    which, of = plan.share
    return zlib.crc32(path.name.encode()) % of == which


def _lengths(shard: Shard) -> list[int]:
    """Frames of every clip of a shard, in the order of its audio."""
    return [sum(segment["frames"] for segment in clip) for clips in _clips(shard) for clip in clips]


def _clips(shard: Shard) -> list[list[list[dict[str, Any]]]]:
    return [[*outline["references"], *outline["turns"]] for outline in shard.conversations]


def _pack_and_save(shard: Shard, codes: list[Array], end_column: int, plan: EncodePlan, path: Path) -> None:
    _save(pack_shard(shard, codes, end_column), plan.rows / f"rows-{path.stem}.npz")
    if not plan.keep:
        path.unlink()


def pack_shard(shard: Shard, codes: list[Array], end_column: int) -> Rows:
    """Packed rows of all conversations of a shard, from the codes of its clips."""
    packer = Packer()
    rows: list[list[tuple[Array, Array]]] = []
    left = iter(codes)
    for outline, clips in zip(shard.conversations, _clips(shard), strict=True):
        rows += packer.add(conversation_tokens(outline, [next(left) for _ in clips], end_column))
    return stack_rows([*rows, *packer.drain()])


def _save(rows: Rows, path: Path) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez(file, matrix=rows.matrix, targets=rows.targets, documents=rows.documents, positions=rows.positions)
    partial.replace(path)

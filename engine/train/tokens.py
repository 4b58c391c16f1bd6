"""Conversations as training rows: the prompt layout of spec/s2pro.md section 3 with bytes as text, packed and masked.

Knows token ids, which positions are predicted, and how several conversations share a row. Does not know tensors' use.
A test holds the layout equal to engine.prompt's, which is what serving sends.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.train.designs import SEMANTIC_BEGIN, special_id

Ids = list[int]
Array = npt.NDArray[np.int16]
ROW_POSITIONS = 2048
NOTHING = -1  # target of a position that predicts nothing

_SPEAKER = re.compile(r"<\|speaker:\d+\|>")
_START, _END, _VOICE = special_id("<|im_start|>"), special_id("<|im_end|>"), special_id("<|voice|>")
_CLOSE = [_END, *b"\n"]
_PLAIN_SYSTEM = [_START, *b"system\n", *b"convert the provided text to speech", *_CLOSE]
_REFERENCE_SYSTEM = [
    _START,
    *b"system\n",
    *b"convert the provided text to speech reference to the following:\n\nText:\n",
]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Packed conversations; int16 everywhere, since a row of bytes would waste the device's memory as int64."""

    matrix: Array  # [R, K + 1, T]: token ids, then codes
    targets: Array  # [R, T]: head column that the position predicts (the end is the last column), or NOTHING
    documents: Array  # [R, T]: number of the conversation within the row; padding has one of its own
    positions: Array  # [R, T]: position within the conversation


class Writer:
    """One conversation being written, position by position."""

    def __init__(self, codebooks: int, end_column: int) -> None:
        self._codebooks, self._end_column = codebooks, end_column
        self._pieces: list[Array] = []
        self._targets: list[Array] = []

    def text(self, ids: Sequence[int]) -> None:
        """Positions that carry text or control tokens and predict nothing."""
        piece = np.zeros((self._codebooks + 1, len(ids)), np.int16)
        piece[0] = ids
        self._pieces.append(piece)
        self._targets.append(np.full(len(ids), NOTHING, np.int16))

    def frames(self, codes: Array, *, ends: bool, learned: bool = True) -> None:
        """Positions of frames. Each is predicted by the position before it; the last one predicts the end if `ends`.

        learned: False makes them context and nothing else.
        """
        if not codes.shape[1]:
            return
        self._pieces.append(np.concatenate([codes[:1] + np.int16(SEMANTIC_BEGIN), codes]))
        if not learned:
            self._targets.append(np.full(codes.shape[1], NOTHING, np.int16))
            return
        self._targets[-1][-1] = codes[0, 0]
        last = self._end_column if ends else NOTHING
        self._targets.append(np.append(codes[0, 1:], np.int16(last)))

    def close(self) -> None:
        """The end of a message."""
        self.text(_CLOSE)

    def finish(self) -> tuple[Array, Array]:
        """([K + 1, n], [n])."""
        return np.concatenate(self._pieces, 1), np.concatenate(self._targets)


def conversation_tokens(outline: dict[str, Any], clips: Sequence[Array], end_column: int) -> tuple[Array, Array]:
    """Matrix [K + 1, n] and targets [n] of one outline (see synthesize.py) with its clips' codes [K, frames]."""
    writer = Writer(clips[0].shape[0], end_column)
    left = iter(clips)
    references = outline["references"]
    if references:
        texts = [reference_text(i, segments[0]["text"].strip()) for i, segments in enumerate(references)]
        writer.text([*_REFERENCE_SYSTEM, *"\n".join(texts).encode(), *b"\n\nSpeech:\n"])
        writer.frames(np.concatenate([next(left) for _ in references], 1), ends=False)
        writer.close()
    else:
        writer.text(_PLAIN_SYSTEM)
    for segments in outline["turns"]:
        codes, at = next(left), 0
        for segment in segments:
            writer.text(prompt_ids(segment["text"]))
            writer.frames(codes[:, at : at + segment["frames"]], ends=segment["ended"], learned=segment["learned"])
            writer.close()
            at += segment["frames"]
    return writer.finish()


def system_ids() -> Ids:
    """The system message without references."""
    return list(_PLAIN_SYSTEM)


def prompt_ids(text: str) -> Ids:
    """A segment up to where its frames begin."""
    return [_START, *b"user\n", *text.encode(), *_CLOSE, _START, *b"assistant\n", _VOICE]


def reference_text(index: int, text: str) -> str:
    """A transcript as the system message has it."""
    return text if _SPEAKER.search(text) else f"<|speaker:{index}|>{text}"


class Packer:
    """Puts conversations into rows, first fit over a few open rows."""

    def __init__(self, positions: int = ROW_POSITIONS, open_rows: int = 48) -> None:
        self._positions, self._open_rows = positions, open_rows
        self._open: list[list[tuple[Array, Array]]] = []
        self._used: list[int] = []

    def add(self, tokens: tuple[Array, Array]) -> Iterable[list[tuple[Array, Array]]]:
        """Place one conversation; yields the row that had to be closed for it, if any. Too long ones are cut."""
        matrix, targets = tokens[0][:, : self._positions], tokens[1][: self._positions]
        length = matrix.shape[1]
        for i, used in enumerate(self._used):
            if used + length <= self._positions:
                self._open[i].append((matrix, targets))
                self._used[i] += length
                return
        if len(self._open) == self._open_rows:
            fullest = int(np.argmax(self._used))
            self._used.pop(fullest)
            yield self._open.pop(fullest)
        self._open.append([(matrix, targets)])
        self._used.append(length)

    def drain(self) -> Iterable[list[tuple[Array, Array]]]:
        """The rows still open."""
        yield from self._open
        self._open, self._used = [], []


def stack_rows(rows: Sequence[list[tuple[Array, Array]]], positions: int = ROW_POSITIONS) -> Rows:
    """Arrays of packed rows; raises ValueError for none."""
    if not rows:
        raise ValueError("no rows to stack")
    shape = (len(rows), positions)
    matrix = np.zeros((len(rows), rows[0][0][0].shape[0], positions), np.int16)
    targets, documents = np.full(shape, NOTHING, np.int16), np.full(shape, -1, np.int16)
    at_position = np.zeros(shape, np.int16)
    for r, row in enumerate(rows):
        at = 0
        for d, (tokens, target) in enumerate(row):
            span = slice(at, at + len(target))
            matrix[r, :, span], targets[r, span], documents[r, span] = tokens, target, d
            at_position[r, span] = np.arange(len(target))
            at = span.stop
    return Rows(matrix, targets, documents, at_position)

"""`parley encode`, `generate` and `decode`: recording -> codes -> codes -> sound, as files, without a server.

Knows the files: sound of any kind that libsndfile reads, codes as .npy, WAV. Does not know how an engine is made. The three steps are those
that users of this family of models know from its reference tools, and so is the layout of the codes: integers [codebooks, frames].
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from engine.api import (
    Codes,
    Conversation,
    Engine,
    Frame,
    ModelInfo,
    Reference,
    Samples,
    SamplingParams,
    SegmentEnd,
    SegmentRetried,
    Voice,
)
from protocol.config import Latency, TagMode
from realtime.audio import to_int16
from realtime.failure import CommandFailed
from realtime.repertoire import Repertoire
from realtime.segmenter import Segmenter
from realtime.wavefile import WaveWriter
from realtime.wording import Wording

FIRST_TURN = 1  # a server's first turn has this number, so the same seed gives the same speech there


def read_recording(path: Path) -> tuple[Samples, int]:
    """Mono samples and their rate. Raises CommandFailed for a file that is no sound."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (OSError, soundfile.SoundFileError) as error:
        raise CommandFailed(f"{path} cannot be read as sound: {error}") from error
    return np.ascontiguousarray(samples.mean(axis=1), np.float32), int(rate)


def read_codes(path: Path) -> Codes:
    """Codes [K, T] of a .npy file; a leading axis of one is dropped. Raises CommandFailed."""
    try:
        codes = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CommandFailed(f"{path} cannot be read as codes: {error}") from error
    if not isinstance(codes, np.ndarray):
        raise CommandFailed(f"{path} holds several arrays; codes are one")
    if codes.ndim == 3 and codes.shape[0] == 1:
        codes = codes[0]
    if codes.ndim != 2 or not codes.size or codes.dtype.kind not in "iu":
        raise CommandFailed(f"{path} holds {codes.dtype} {list(codes.shape)}; codes are integers [codebooks, frames]")
    if codes.min() < 0 or codes.max() > np.iinfo(np.int16).max:
        raise CommandFailed(f"{path} holds {codes.min()} to {codes.max()}; codes are indices from 0 on")
    checked: Codes = codes.astype(np.int16)
    return checked


def write_codes(path: Path, codes: Codes) -> None:
    """64 bits, as the reference tools write them. Raises OSError."""
    with path.open("wb") as file:  # np.save would add its own suffix to another name
        np.save(file, codes.astype(np.int64))


def write_sound(path: Path, samples: Samples, rate: int) -> None:
    """Raises OSError."""
    with WaveWriter(path, rate) as wave:
        wave.write(to_int16(samples))


def voice_of(texts: Sequence[str], codes: Sequence[Codes]) -> Voice:
    """The voice of recordings with their transcripts. Raises CommandFailed where they do not pair up."""
    if len(texts) != len(codes):
        raise CommandFailed(f"{len(texts)} --prompt-text and {len(codes)} --prompt-codes; every recording needs both")
    digest = hashlib.sha256()
    for text, reference in zip(texts, codes, strict=True):
        digest.update(f"{len(text)}/{reference.shape}/{text}".encode() + reference.tobytes())
    return Voice(digest.hexdigest(), tuple(map(Reference, texts, codes)))


async def generate(
    engine: Engine, text: str, voice: Voice, params: SamplingParams, note: Callable[[str], None]
) -> Codes:
    """Codes [K, T] of a text, in as many segments as a server would make of it. `note` is told what went wrong and was mended.

    Raises EngineError; CommandFailed for a text that cannot be spoken.
    """
    segments = _segments(text, engine.info, note)
    stream = engine.open(Conversation("generate"), voice, params, FIRST_TURN)
    for segment in segments:
        stream.push(segment)
    stream.finish()
    stream.allow(params.max_frames)
    spoken: list[list[Codes]] = [[] for _ in segments]
    async for event in stream:
        match event:
            case Frame():
                spoken[event.segment].append(event.codes)
            case SegmentEnd():
                del spoken[event.segment][event.frames :]
                if event.cut is not None:
                    note(f"segment {event.segment + 1} of {len(segments)} was cut: {event.cut}")
            case SegmentRetried():
                note(f"segment {event.segment + 1} of {len(segments)} is generated again: {event.why}")
    frames = [codes for segment in spoken for codes in segment]
    if not frames:
        raise CommandFailed("the model said nothing")
    stacked: Codes = np.stack(frames, axis=1)
    return stacked


def _segments(text: str, info: ModelInfo, note: Callable[[str], None]) -> list[str]:
    """What the engine is given for a text. Raises CommandFailed where that is nothing."""
    try:
        wording = Wording(clean=True, in_words=info.numbers_in_words)
        repertoire = Repertoire.of(info.scripts)
        segmenter = Segmenter(Latency.QUALITY, TagMode.PERFORM, repertoire=repertoire, wording=wording)
    except ValueError as error:
        raise CommandFailed(f"the checkpoint's config.json: {error}") from error
    segmenter.push(text, 0.0)
    segmenter.end()
    segments = segmenter.take(0.0, 0.0)
    for stretch in (stretch for segment in segments for stretch in segment.unread):
        note(str(stretch))
    changes = [change for segment in segments for change in segment.changes]
    for first in {change.kind: change for change in reversed(changes)}.values():
        note(str(first))
    texts = [segment.text for segment in segments if segment.speakable]
    if not texts:
        raise CommandFailed("nothing in that text can be spoken")
    return texts

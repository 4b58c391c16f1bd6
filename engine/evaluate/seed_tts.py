"""The lists of the Seed-TTS benchmark: clone each reference, speak the text, and ask outside models what was said and by whom.

Knows the list format, results that outlive an interruption, and what is reported. Does not know how speech is made or heard.
Source of the format and of the mean over utterances: the benchmark's public repository, github.com/BytedanceSpeech/seed-tts-eval.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol, TextIO

import numpy as np
import soundfile

from engine.api import Codes, Reference, Samples, Voice
from engine.evaluate.external import Embeds, Hears
from engine.evaluate.report import Row
from engine.evaluate.speaking import Request, Spoken
from engine.evaluate.wording import Errors, language_of, word_errors

# Utterances between two results: enough for every row of the engine, little to do again after an interruption.
BATCH = 32
_SHOWN = 5  # mistakes of a list that are told at once
_ID = re.compile(r"[\w.-]*\w[\w.-]*")  # it becomes a file's name


class SeedTtsError(Exception):
    """A list or a work folder cannot be used; the text says where and why."""


class Speaks(Protocol):
    """What clones and speaks; `engine.evaluate.speaking.Mouth` is one."""

    @property
    def sample_rate(self) -> int: ...

    def encode(self, samples: Samples, sample_rate: int) -> Codes: ...

    def speak(self, requests: Sequence[Request], what: str) -> list[Spoken]: ...


@dataclass(frozen=True, slots=True)
class Utterance:
    """One line of a list."""

    line: int  # from 1
    id: str
    transcript: str  # what the reference says
    reference: Path
    text: str  # what is to be said
    truth: Path | None = None  # a recording of the text by the reference's speaker


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one utterance."""

    id: str
    heard: str  # transcript of what was spoken
    edits: int
    words: int
    seconds: float  # of speech
    similarity: float | None  # of the voice to the reference's, -1..1; None without a speaker model, or without speech
    failed: str | None  # why there is no speech, or not all of it
    truth_edits: int | None  # the same of the ground truth, where there is one
    truth_similarity: float | None


def read_list(path: Path) -> list[Utterance]:
    """The lines of a list. Paths in it are relative to its folder. A ground truth that is not there counts as not given.

    Raises SeedTtsError, which names the first mistakes by line, for a file that cannot be read or holds no utterance.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SeedTtsError(f"cannot read the list {path}: {error}") from error
    utterances: list[Utterance] = []
    wrong: list[str] = []
    first_with: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        found = _utterance(path.parent, number, line)
        if isinstance(found, Utterance) and found.id in first_with:
            found = f"the id {found.id} is that of line {first_with[found.id]} too"
        if isinstance(found, str):
            wrong.append(f"{path}:{number}: {found}")
            continue
        first_with[found.id] = number
        utterances.append(found)
    if wrong:
        more = [f"and {len(wrong) - _SHOWN} more lines like these"] if len(wrong) > _SHOWN else []
        raise SeedTtsError("\n".join(wrong[:_SHOWN] + more))
    if not utterances:
        raise SeedTtsError(f"the list {path} is empty")
    return utterances


def measure(
    utterances: Sequence[Utterance],
    speaks: Speaks,
    hears: Hears,
    embeds: Embeds | None,
    *,
    run: Mapping[str, str],
    work: Path | None,
    progress: TextIO,
) -> list[Result]:
    """Speak and judge every utterance.

    run: what else the figures depend on (checkpoint, sampling), by name. work: a folder for waves and results; what it holds of the same
    run is not done again. progress: told after every batch. Raises SeedTtsError, also for a folder with another run's results.
    """
    named = {**run, "recognizer": hears.name, "speaker_model": embeds.name if embeds else "none"}
    book = _Book(work, {**named, "list": _digest(utterances)})
    wanted = {utterance.id for utterance in utterances}
    results = {result.id: result for result in book.results if result.id in wanted}
    if results:
        print(f"seed-tts: {len(results)} of {len(utterances)} utterances are known from {work}", file=progress)
    left = [utterance for utterance in utterances if utterance.id not in results]
    for start in range(0, len(left), BATCH):
        batch = left[start : start + BATCH]
        made = _speak(batch, speaks)
        for utterance, spoken in zip(batch, made, strict=True):
            book.keep_wave(utterance.id, spoken.samples, speaks.sample_rate)
        for result in _judge(batch, made, speaks.sample_rate, hears, embeds):
            book.add(result)
            results[result.id] = result
        errors = _errors(list(results.values()))
        print(f"seed-tts: {len(results)} of {len(utterances)}, word error rate {errors.rate:.4f}", file=progress)
    return [results[utterance.id] for utterance in utterances]


def rows(results: Sequence[Result]) -> list[Row]:
    """What is reported. Rates are fractions of words; the mean over utterances is the figure that the benchmark publishes."""
    heard = [result for result in results if result.truth_edits is not None]
    truth = Errors(sum(result.truth_edits or 0 for result in heard), sum(result.words for result in heard))
    each = [Errors(result.edits, result.words).rate for result in results]
    judged = [(r.similarity, r.truth_similarity) for r in results if r.similarity is not None]
    true_voices = [true for _, true in judged if true is not None]
    count = len(results)
    made = [
        Row(
            "seed_tts_word_error_rate",
            "Seed-TTS: word error rate (beside it: ground truth)",
            _errors(results).rate,
            teacher=truth.rate if heard else None,
            count=count,
        ),
        Row("seed_tts_mean_word_error_rate", "Seed-TTS: mean of each utterance's", float(np.mean(each)), count=count),
    ]
    if judged:
        made.append(
            Row(
                "seed_tts_speaker_similarity",
                "Seed-TTS: likeness to the reference's voice",
                float(np.mean([similarity for similarity, _ in judged])),
                teacher=float(np.mean(true_voices)) if true_voices else None,
                count=len(judged),
            )
        )
    failures = [result.failed is not None for result in results]
    return [*made, Row("seed_tts_failed", "Seed-TTS: not spoken, or cut", float(np.mean(failures)), count=count)]


def _utterance(folder: Path, number: int, line: str) -> Utterance | str:
    """The line's content, or what is wrong with it."""
    parts = [part.strip() for part in line.split("|")]
    if len(parts) not in (4, 5):
        return f"{len(parts)} fields between |, not 4 or 5: id, transcript of the reference, its file, text[, true recording]"
    id_, transcript, reference, text = parts[:4]
    if not _ID.fullmatch(id_):
        return f"the id {id_!r} is empty or holds more than letters, digits, - _ and ."
    for name, value in (("transcript", transcript), ("file of the reference", reference), ("text", text)):
        if not value:
            return f"the {name} is empty"
    if not (folder / reference).is_file():
        return f"there is no file {folder / reference}"
    truth = folder / parts[4] if len(parts) == 5 and parts[4] else None
    return Utterance(
        number, id_, transcript, folder / reference, text, truth if truth is not None and truth.is_file() else None
    )


def _speak(batch: Sequence[Utterance], speaks: Speaks) -> list[Spoken]:
    codes: dict[Path, Codes] = {}  # lists use a reference several times in a row
    requests = []
    for utterance in batch:
        if utterance.reference not in codes:
            codes[utterance.reference] = speaks.encode(*_recording(utterance.reference, utterance.line))
        reference = Reference(utterance.transcript, codes[utterance.reference])
        voice = Voice(f"seed-tts-{utterance.id}", (reference,))
        requests.append(Request((utterance.text,), voice, seed=utterance.line))
    return speaks.speak(requests, "seed-tts")


def _recording(path: Path, line: int) -> tuple[Samples, int]:
    """Samples, channels mixed, and their rate."""
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError) as error:
        raise SeedTtsError(f"line {line}: cannot read {path}: {error}") from error
    if not len(samples):
        raise SeedTtsError(f"line {line}: {path} holds no audio")
    mono: Samples = samples.mean(axis=1)
    return mono, int(rate)


def _judge(
    batch: Sequence[Utterance], made: Sequence[Spoken], sample_rate: int, hears: Hears, embeds: Embeds | None
) -> list[Result]:
    languages = [language_of(utterance.text) for utterance in batch]
    # Where nothing was spoken nobody is asked: some recognisers hear words in silence.
    loud = [i for i, spoken in enumerate(made) if len(spoken.samples)]
    heard = hears.transcribe([made[i].samples for i in loud], sample_rate, [languages[i] for i in loud])
    transcripts = dict(zip(loud, heard, strict=True))
    results = []
    for i, (utterance, spoken, language) in enumerate(zip(batch, made, languages, strict=True)):
        silent, said = i not in transcripts, transcripts.get(i, "")
        errors = word_errors(utterance.text, said, language)
        similarity, truth_edits, truth_similarity = None, None, None
        reference = _recording(utterance.reference, utterance.line) if embeds else None
        if embeds and reference and not silent:
            similarity = _likeness(embeds, (spoken.samples, sample_rate), reference)
        if utterance.truth is not None:
            true = _recording(utterance.truth, utterance.line)
            (really,) = hears.transcribe([true[0]], true[1], [language])
            truth_edits = word_errors(utterance.text, really, language).edits
            truth_similarity = _likeness(embeds, true, reference) if embeds and reference else None
        failed = spoken.cut or ("nothing was spoken" if silent else None)
        seconds = round(len(spoken.samples) / sample_rate, 3)
        judged = (errors.edits, errors.words, seconds, similarity, failed, truth_edits, truth_similarity)
        results.append(Result(utterance.id, said, *judged))
    return results


def _likeness(embeds: Embeds, one: tuple[Samples, int], other: tuple[Samples, int]) -> float:
    """Cosine of the angle between two voices."""
    (a,), (b,) = embeds.embed([one[0]], one[1]), embeds.embed([other[0]], other[1])
    return round(float(a @ b), 5)


def _errors(results: Sequence[Result]) -> Errors:
    return Errors(sum(result.edits for result in results), sum(result.words for result in results))


def _digest(utterances: Sequence[Utterance]) -> str:
    """Of the texts that the results are about; where the list lies does not matter."""
    content = [(u.id, u.transcript, u.reference.name, u.text, u.truth is not None) for u in utterances]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


class _Book:
    """Results and waves in a folder, or nowhere."""

    def __init__(self, work: Path | None, run: Mapping[str, str]) -> None:
        """Read what is there. A line that an interruption left unfinished is dropped. Raises SeedTtsError for another run's."""
        self.results: list[Result] = []
        self._waves = work / "waves" if work else None
        self._path = work / "seed_tts.jsonl" if work else None
        if self._waves is None or self._path is None:
            return
        self._waves.mkdir(parents=True, exist_ok=True)
        content = self._path.read_bytes() if self._path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        first = json.dumps(dict(run)).encode() + b"\n"
        if not whole and first.startswith(content):
            whole = first
        self._read(whole, run)
        if whole != content:
            self._path.write_bytes(whole)

    def keep_wave(self, name: str, samples: Samples, sample_rate: int) -> None:
        """16-bit mono, for ears."""
        if self._waves is not None and len(samples):
            soundfile.write(self._waves / f"{name}.wav", np.clip(samples, -1, 1), sample_rate, subtype="PCM_16")

    def add(self, result: Result) -> None:
        """Keep a result."""
        self.results.append(result)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(result), ensure_ascii=False) + "\n")

    def _read(self, content: bytes, run: Mapping[str, str]) -> None:
        names = {field.name for field in fields(Result)}
        try:
            before, *entries = [json.loads(line) for line in content.split(b"\n")[:-1]]
            before = dict(before)
            self.results = [Result(**entry) for entry in entries if entry.keys() == names]
        except (ValueError, TypeError, AttributeError) as error:
            raise SeedTtsError(f"{self._path} does not hold results of this program; name another folder") from error
        if len(self.results) != len(entries):
            raise SeedTtsError(f"{self._path} was written by another version; name another folder")
        if before != dict(run):
            changed = sorted(name for name in {*before, *run} if before.get(name) != run.get(name))
            what = ", ".join(f"{name} {before.get(name)!r}, now {run.get(name)!r}" for name in changed)
            raise SeedTtsError(f"{self._path} holds results of another run ({what}); name another folder")

"""Speech recognisers and speaker models from outside, through the optional package `transformers`.

Knows two kinds of recogniser (CTC, and encoder-decoder like Whisper) and x-vector models, in a folder or as a repository id. Does not know
what is measured with them beyond a word error rate. transformers is imported when a model is loaded: everything else does without it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError

from engine.api import Samples
from engine.evaluate.report import Row
from engine.evaluate.wording import Errors, language_of, word_errors
from engine.resample import resample

_BATCH = 8  # clips an encoder-decoder hears at once; Whisper fills each up to 30 s anyway, so what is beside a clip changes nothing
# Clips are filled up with silence to this: the convolutions of these models need some input to give any output.
_SHORTEST_S = 0.5
# Weights that only training uses; published checkpoints lack them now and then.
_ONLY_TRAINED = ("masked_spec_embed", "objective.weight")


class OutsideModelError(Exception):
    """A model from outside cannot be used; the text is one line and says why."""


class Hears(Protocol):
    """What transcribes."""

    @property
    def name(self) -> str:
        """As asked for."""

    def transcribe(self, clips: Sequence[Samples], sample_rate: int, languages: Sequence[str]) -> list[str]:
        """What is said in each clip. languages: two-letter codes, one a clip; a model of one language ignores them."""


class Embeds(Protocol):
    """What makes vectors of voices."""

    @property
    def name(self) -> str:
        """As asked for."""

    def embed(self, clips: Sequence[Samples], sample_rate: int) -> npt.NDArray[np.float32]:
        """Unit vectors [len(clips), D]: the product of two is the likeness of their voices, -1 to 1."""


def word_error_rate(
    hears: Hears, texts: Sequence[str], clips: Sequence[Samples], sample_rate: int, language: str | None = None
) -> Errors:
    """Errors of all `clips` together against the texts they should say, one a clip. language: None asks each text's script."""
    languages = [language or language_of(text) for text in texts]
    heard = hears.transcribe(clips, sample_rate, languages)
    return sum(map(word_errors, texts, heard, languages), Errors(0, 0))


def rows(
    hears: Hears,
    texts: Sequence[str],
    spoken: Sequence[Samples],
    taught: Sequence[Samples] | None,
    sample_rate: int,
    language: str | None = None,
) -> list[Row]:
    """The word error rate of what was spoken and, beside it, of what the teacher made of the same texts."""
    errors = word_error_rate(hears, texts, spoken, sample_rate, language)
    teacher = word_error_rate(hears, texts, taught, sample_rate, language).rate if taught is not None else None
    title = f"word error rate, heard by {Path(hears.name).name}"
    return [Row("word_error_rate", title, errors.rate, teacher=teacher, count=len(texts))]


def load_recognizer(source: str, device: str) -> OutsideRecognizer:
    """A recogniser by folder or repository id. Raises OutsideModelError."""
    transformers = _transformers()
    config = _loading("configuration", source, lambda: transformers.AutoConfig.from_pretrained(source))
    named = [str(name) for name in config.architectures or ()]
    ctc = any(name.endswith("ForCTC") for name in named)
    if not ctc and type(config) not in transformers.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING:
        raise OutsideModelError(
            f"{source} is a model of type {config.model_type} ({', '.join(named) or 'no architecture named'}), "
            "neither a CTC nor an encoder-decoder speech recogniser"
        )
    auto = transformers.AutoModelForCTC if ctc else transformers.AutoModelForSpeechSeq2Seq
    model = _load_model(auto, source, device)
    tokenizer = _loading("tokenizer", source, lambda: transformers.AutoTokenizer.from_pretrained(source))
    return OutsideRecognizer(source, model, _load_front(source), tokenizer, ctc)


def load_speaker_model(source: str, device: str) -> OutsideSpeakers:
    """An x-vector model by folder or repository id. Raises OutsideModelError."""
    transformers = _transformers()
    config = _loading("configuration", source, lambda: transformers.AutoConfig.from_pretrained(source))
    if type(config) not in transformers.MODEL_FOR_AUDIO_XVECTOR_MAPPING:
        raise OutsideModelError(f"{source} is a model of type {config.model_type}, which has no x-vectors")
    model = _load_model(transformers.AutoModelForAudioXVector, source, device)
    return OutsideSpeakers(source, model, _load_front(source))


@dataclass(frozen=True, slots=True)
class OutsideRecognizer:
    """A loaded recogniser."""

    name: str
    _model: Any
    _front: Any  # samples to what the model takes
    _tokenizer: Any
    _ctc: bool

    @torch.inference_mode()
    def transcribe(self, clips: Sequence[Samples], sample_rate: int, languages: Sequence[str]) -> list[str]:
        """See Hears. Whisper checkpoints of several languages are told the language; they transcribe and never translate."""
        ready = [_ready(clip, sample_rate, self._front.sampling_rate) for clip in clips]
        if self._ctc:  # one by one: some of them were trained without a mask and hear the silence that fills a batch up
            return [self._best_path(clip) for clip in ready]
        if self._model.config.model_type != "whisper":
            return [self._generated(self._input([clip]), {})[0] for clip in ready]
        heard: list[str] = []
        for start in range(0, len(ready), _BATCH):
            heard += self._whispers(ready[start : start + _BATCH], list(languages[start : start + _BATCH]))
        return heard

    def _best_path(self, clip: Samples) -> str:
        best = self._model(**self._input([clip])).logits[0].argmax(-1).tolist()
        # Collapsed here: tokenizers that drop special tokens drop the blank first, and then join "ll" in "hello".
        kept = [token for token, _ in groupby(best) if token not in self._silent]
        return str(self._tokenizer.decode(kept, group_tokens=False))

    @property
    def _silent(self) -> set[int]:
        """Ids that stand for nothing: the blank and all special tokens but the space between words."""
        space = getattr(self._tokenizer, "word_delimiter_token_id", None)
        return {self._model.config.pad_token_id, *self._tokenizer.all_special_ids} - {space}

    def _whispers(self, clips: list[Samples], languages: list[str]) -> list[str]:
        window = int(self._front.n_samples)
        options: dict[str, Any] = {}
        if getattr(self._model.generation_config, "is_multilingual", False):
            options = {"language": languages, "task": "transcribe"}
        if max(map(len, clips)) <= window:
            return self._generated(self._input(clips, padding="max_length", return_attention_mask=True), options)
        # Beyond its window (30 s in every published one) the model listens piece by piece, which needs its time marks.
        if not hasattr(self._model.generation_config, "no_timestamps_token_id"):
            raise OutsideModelError(
                f"{self.name} has no time marks, so it cannot hear more than {self._front.chunk_length} s at once"
            )
        whole = self._input(clips, padding="longest", truncation=False, return_attention_mask=True)
        return self._generated(whole, {**options, "return_timestamps": True})

    def _generated(self, inputs: dict[str, Any], options: dict[str, Any]) -> list[str]:
        ids = self._model.generate(**inputs, **options, do_sample=False, num_beams=1)
        return [str(text) for text in self._tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def _input(self, clips: list[Samples], **options: Any) -> dict[str, Any]:
        return _input(self._front, self._model, clips, **options)


@dataclass(frozen=True, slots=True)
class OutsideSpeakers:
    """A loaded x-vector model."""

    name: str
    _model: Any
    _front: Any

    @torch.inference_mode()
    def embed(self, clips: Sequence[Samples], sample_rate: int) -> npt.NDArray[np.float32]:
        """See Embeds. One by one, so that no clip is filled up to another's length."""
        vectors = []
        for clip in clips:
            ready = _ready(clip, sample_rate, self._front.sampling_rate)
            made = self._model(**_input(self._front, self._model, [ready])).embeddings
            vectors.append(torch.nn.functional.normalize(made.float(), dim=-1))
        stacked: npt.NDArray[np.float32] = torch.cat(vectors).cpu().numpy()
        return stacked


def _transformers() -> Any:
    if importlib.util.find_spec("transformers") is None:
        raise OutsideModelError("this needs the optional package transformers: pip install 'parley[evaluate]'")
    import transformers

    # Its remarks on every load are many and none is about what is measured here; what matters is checked below.
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _loading(what: str, source: str, load: Callable[[], Any]) -> Any:
    """What `load` gives; what it raises for a wrong source or an unsuitable folder becomes OutsideModelError."""
    if (
        source.startswith(("/", "./", "../")) and not Path(source).is_dir()
    ):  # transformers would take it for a repository's name
        raise OutsideModelError(f"there is no folder {source}")
    try:
        return load()
    except (OSError, ValueError, KeyError, TypeError, ImportError, RuntimeError, SafetensorError) as error:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise OutsideModelError(f"cannot load the {what} of {source}: {first}") from error


def _load_model(auto: Any, source: str, device: str) -> Any:
    """The model on its device. One whose file lacks weights is refused: it would hear, and be reported, at random."""
    model, report = _loading(
        "weights", source, lambda: auto.from_pretrained(source, output_loading_info=True, dtype=torch.float32)
    )
    lacking = [key for key in report["missing_keys"] if not key.endswith(_ONLY_TRAINED)]
    lacking += [str(key) for key in report["mismatched_keys"]]
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise OutsideModelError(
            f"{source} has no usable weights for {sorted(lacking)[0]}{more} of {type(model).__name__}"
        )
    return model.eval().to(device)


def _load_front(source: str) -> Any:
    transformers = _transformers()
    return _loading("feature extractor", source, lambda: transformers.AutoFeatureExtractor.from_pretrained(source))


def _ready(clip: Samples, sample_rate: int, wanted_hz: int) -> Samples:
    samples = resample(clip, sample_rate, wanted_hz)
    return np.pad(samples, (0, max(0, int(_SHORTEST_S * wanted_hz) - len(samples))))


def _input(front: Any, model: Any, clips: list[Samples], **options: Any) -> dict[str, Any]:
    made = front(clips, sampling_rate=front.sampling_rate, return_tensors="pt", **options)
    return {name: tensor.to(model.device) for name, tensor in made.items()}

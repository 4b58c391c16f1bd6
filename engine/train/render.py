"""Scripts become audio: every phrase spoken by the teacher, trimmed, levelled and joined, with its phonemes.

Knows where silence belongs, how loud voices are, where words start and how a barge-in cuts text and audio at the same
word. Does not know token ids or codes: it works in whole codec frames of `FRAME_SAMPLES`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.train.phones import phone_track
from engine.train.script import ConversationScript, Phrase, SegmentScript, TurnScript
from engine.train.styles import Delivery, deliver
from engine.train.teacher import SAMPLE_RATE, Teacher, Tone, Utterance

FRAME_SAMPLES = 1024  # samples a codec frame
PARTS = 4  # phoneme labels a frame
_HOP = FRAME_SAMPLES // PARTS
_COMMON_RMS = 0.05  # of full scale while speaking; the formant voices peak at 8 to 10 times that, and [loud] doubles it
_LOUDEST = 0.95
_TAIL_S = {
    ".": 0.22,
    "!": 0.22,
    "?": 0.22,
    ",": 0.12,
    ";": 0.14,
    ":": 0.14,
}  # silence kept after a phrase, by its last sign
_OPEN_TAIL_S = 0.035  # after a phrase that stops in mid-sentence
_HEAD_S = 0.004
_STRESS = ("\x01+30P\x01-45S", "\x01-30P\x01+45S")  # embedded commands of the teacher around an emphasised word
_STRESS_GAIN_DB = 3.0
_TAG = re.compile(r"\[[^\]]*\] ?")


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """Audio that is encoded in one go: a turn, or one reference."""

    samples: npt.NDArray[np.int16]  # [frames * FRAME_SAMPLES]
    labels: npt.NDArray[np.uint8]  # [frames * PARTS], phoneme classes

    @property
    def frames(self) -> int:
        return len(self.samples) // FRAME_SAMPLES


@dataclass(frozen=True, slots=True)
class Segment:
    """One user/assistant pair of a rendered turn."""

    text: str
    frames: int  # taken from the turn's clip, in order
    ended: bool = True  # False: a barge-in cut it, so its last frame is no ending
    learned: bool = True  # False: it is only there to be heard by what follows


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A rendered turn."""

    clip: Clip
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """A rendered training example."""

    references: tuple[Turn, ...]  # each of one segment
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Sound:
    samples: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]  # one per _HOP from the first sample on
    words: tuple[tuple[int, int], ...]  # (code point in the phrase's text, sample)


@dataclass(slots=True)
class Renderer:
    """Renders scripts with one teacher. `rng` decides what a script leaves open (where exactly a cut falls)."""

    teacher: Teacher
    rng: random.Random
    _rms: dict[tuple[str, str], float] = field(default_factory=dict)  # (language, variant) -> rms of a plain sentence

    def conversation(self, script: ConversationScript) -> Conversation:
        """Render everything."""
        references = tuple(self.turn(TurnScript((segment,)), script.language) for segment in script.references)
        return Conversation(references, tuple(self.turn(turn, script.language) for turn in script.turns))

    def turn(self, script: TurnScript, language: str) -> Turn:
        """Render one turn; its segments start at frame borders."""
        clips: list[Clip] = []
        segments: list[Segment] = []
        last = len(script.segments) - 1
        for i, segment in enumerate(script.segments):
            cut = script.cut if i == last else None
            text, clip, ended = self._segment(segment, language, cut)
            if script.mute:
                clip, ended = _head(clip, self.rng.randint(0, 2)), False
            if script.untold:
                text = _TAG.sub("", text)
            clips.append(clip)
            segments.append(Segment(text, clip.frames, ended, learned=not script.untold))
        joined = Clip(np.concatenate([c.samples for c in clips]), np.concatenate([c.labels for c in clips]))
        return Turn(joined, tuple(segments))

    def timed(self, phrase: Phrase, language: str) -> tuple[Clip, tuple[tuple[int, int], ...]]:
        """One phrase, and where its words start: (code point in the phrase's text, sample in the clip)."""
        sound = self._phrase(phrase, language)
        return _clip([sound], exact=True), sound.words

    def _segment(self, script: SegmentScript, language: str, cut: float | None) -> tuple[str, Clip, bool]:
        text, ended = "", True
        sounds: list[_Sound] = []
        for i, phrase in enumerate(script.phrases):
            sound = self._phrase(phrase, language)
            words = phrase.text
            if cut is not None and i == len(script.phrases) - 1:
                words, sound, ended = self._cut(words, sound, cut)
            text += phrase.tags + phrase.shown(words)
            sounds.append(sound)
        return text, _clip(sounds, exact=ended), ended

    def _cut(self, text: str, sound: _Sound, share: float) -> tuple[str, _Sound, bool]:
        """Cut text and sound before one word, the sound up to 60 ms early or late, as playback clocks are."""
        starts = [word for word in sound.words if word[0] > 0 and word[1] > 4 * FRAME_SAMPLES]
        if not starts:
            return text, sound, True
        at_text, at_sample = starts[min(int(share * len(starts)), len(starts) - 1)]
        at_sample += int(self.rng.uniform(-0.06, 0.06) * SAMPLE_RATE)
        kept = text[:at_text]
        kept = kept.rstrip() if self.rng.random() < 0.6 else kept
        return kept, _Sound(sound.samples[:at_sample], sound.labels[: at_sample // _HOP], ()), False

    def _phrase(self, phrase: Phrase, language: str) -> _Sound:
        delivery = deliver(phrase.speaker, phrase.style)
        text, stress = _with_stress(phrase)
        spoken = self.teacher.speak(text.strip(), language, delivery.tone)
        shift = len(text) - len(text.lstrip())
        gain = self._gain(delivery, language)
        sound = _trimmed(spoken, phrase.text.rstrip()[-1:], gain, shift)
        if stress:
            sound = _Sound(_raised(sound, stress), sound.labels, ())
        if not phrase.pause_s:
            return sound
        silence = int(phrase.pause_s * SAMPLE_RATE) // _HOP * _HOP
        return _Sound(
            np.concatenate([np.zeros(silence, np.float32), sound.samples]),
            np.concatenate([np.zeros(silence // _HOP, np.uint8), sound.labels]),
            tuple((at, sample + silence) for at, sample in sound.words),
        )

    def _gain(self, delivery: Delivery, language: str) -> float:
        """Factor that brings the variant to the common level and then to the delivery's own."""
        key = language, delivery.tone.variant
        if key not in self._rms:
            plain = Tone(delivery.tone.variant, 170, 50, 50, 100)
            samples = self.teacher.speak(
                "Nine men gather in a warm yellow room and sing aloud", language, plain
            ).samples
            loud = samples[np.abs(samples) > 300].astype(np.float64) / 32768
            self._rms[key] = float(np.sqrt(np.mean(loud**2))) if len(loud) else _COMMON_RMS
        return float(_COMMON_RMS / self._rms[key] * 10.0 ** (delivery.gain_db / 20))


def _with_stress(phrase: Phrase) -> tuple[str, tuple[int, int] | None]:
    """The text with the teacher's commands around the stressed word; (first, past last) word number, or None."""
    if phrase.stressed is None:
        return phrase.text, None
    word = list(re.finditer(r"\S+", phrase.text))[phrase.stressed]
    before, after = phrase.text[: word.start()], phrase.text[word.end() :]
    return f"{before}{_STRESS[0]} {word.group()} {_STRESS[1]}{after}", (phrase.stressed, phrase.stressed + 1)


def _raised(sound: _Sound, words: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Make the stressed word louder. Numbers count as several words for the teacher; then the level stays as it is."""
    starts = [sample for _, sample in sound.words] + [len(sound.samples)]
    if words[1] >= len(starts):
        return sound.samples
    samples = sound.samples.copy()
    samples[starts[words[0]] : starts[words[1]]] *= 10 ** (_STRESS_GAIN_DB / 20)
    return samples


def _trimmed(spoken: Utterance, last: str, gain: float, shift: int) -> _Sound:
    """Silence cut to what belongs there, level set, labels and word positions moved along."""
    samples = spoken.samples.astype(np.float32) * (gain / 32768)
    peak = float(np.abs(samples).max(initial=0.0))
    if peak < 1e-4:
        quiet = int(0.1 * SAMPLE_RATE)
        return _Sound(np.zeros(quiet, np.float32), np.zeros(-(-quiet // _HOP), np.uint8), ())
    if peak > _LOUDEST:
        samples *= _LOUDEST / peak
    sounding = np.flatnonzero(np.abs(samples) > 0.01 * peak)
    start = max(0, int(sounding[0]) - int(_HEAD_S * SAMPLE_RATE))
    end = int(sounding[-1]) + 1
    tail = int(_TAIL_S.get(last, _OPEN_TAIL_S) * SAMPLE_RATE)
    kept = np.concatenate([samples[start:end], np.zeros(tail, np.float32)])
    fade = min(64, end - start)
    kept[end - start - fade : end - start] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    labels = phone_track(((name, at - start) for name, at in spoken.phones), end - start, _HOP)
    labels = np.concatenate([labels, np.zeros(-(-len(kept) // _HOP) - len(labels), np.uint8)])
    words = tuple((at + shift, max(0, sample - start)) for at, sample in spoken.words)
    return _Sound(kept, labels, words)


def _clip(sounds: list[_Sound], exact: bool) -> Clip:
    """Join, in whole frames: filled up with silence, or, for a cut, without what does not fill a frame."""
    samples = np.concatenate([sound.samples for sound in sounds])
    labels = np.concatenate([sound.labels for sound in sounds])  # joins are off by less than a hop
    whole, rest = divmod(len(samples), FRAME_SAMPLES)
    frames = max(1, whole + (1 if exact and rest > FRAME_SAMPLES // 8 else 0))
    samples = np.pad(samples[: frames * FRAME_SAMPLES], (0, max(0, frames * FRAME_SAMPLES - len(samples))))
    labels = np.pad(labels[: frames * PARTS], (0, max(0, frames * PARTS - len(labels))))
    return Clip(np.round(samples * 32767).astype(np.int16), labels)


def _head(clip: Clip, frames: int) -> Clip:
    return Clip(clip.samples[: frames * FRAME_SAMPLES], clip.labels[: frames * PARTS])

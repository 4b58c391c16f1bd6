"""A quick look during training at what the model says by itself: phoneme error rate, length, endings, German.

Knows a list of natural sentences that training never sees. Does not know tags, voices or turns: `engine.evaluate` measures those.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from engine.codec import Codec
from engine.model import DualAR
from engine.train.generate import Sampling, Spoken, generate
from engine.train.recognizer import Recognizer, collapse, error_rate
from engine.train.render import FRAME_SAMPLES, Renderer, Turn
from engine.train.script import Phrase, SegmentScript, TurnScript
from engine.train.styles import SPEAKERS, Style
from engine.train.teacher import Teacher
from engine.train.tokens import Array, Writer, prompt_ids, system_ids

Samples = npt.NDArray[np.float32]  # [n] in [-1, 1]

SENTENCES = (
    "The birch canoe slid on the smooth planks.",
    "Could you tell me when the next train to Oxford leaves?",
    "I left my keys on the kitchen table this morning.",
    "She paid forty-two dollars for a second-hand guitar.",
    "Nobody expected the storm to arrive so early in the year.",
    "Please remember to water the plants while we are away.",
    "My grandmother taught me how to bake bread when I was seven.",
    "What would you do if you won a million dollars?",
    "The museum is closed on Mondays and public holidays.",
    "He looked at the old photograph for a long time.",
    "There's a small bakery around the corner from our office.",
    "We should probably ask Margaret before we change anything.",
    "The temperature dropped below zero just after midnight.",
    "I can't believe you drove all the way from Chicago!",
    "First, peel the potatoes and cut them into thin slices.",
    "Doctor Livingstone, I presume?",
    "The committee will vote on the proposal next Thursday at three.",
    "It was the best pizza that I have ever eaten.",
    "Turn left at the traffic lights and keep going for two miles.",
    "Why didn't anyone tell us about the meeting?",
    "The children were laughing and chasing each other in the garden.",
    "Your package has been shipped and should arrive within five days.",
    "He speaks three languages, but he never learned to swim.",
    "In nineteen sixty-nine, two astronauts walked on the moon.",
    "Take this medicine twice a day with plenty of water.",
    "The orchestra played beautifully despite the terrible acoustics.",
    "Let me check the calendar and get back to you.",
    "A strange noise was coming from behind the wall.",
    "If it rains tomorrow, we'll stay home and watch a film.",
    "Do you prefer tea or coffee with your breakfast?",
    "The bridge was built in 1894 and repaired twice since then.",
    "Sorry, I didn't quite catch your name.",
    "Yesterday's newspaper is still lying on the doorstep.",
    "Everyone in the village knew the story of the lost treasure.",
    "You have three new messages and one missed call.",
    "The quick brown fox jumps over the lazy dog.",
    "I'd rather walk than wait for another crowded bus.",
    "Professor Nakamura will give a lecture about volcanoes.",
    "That is exactly what I was trying to explain.",
    "Good evening, and thank you for calling customer support.",
)
GERMAN = (
    "Könnten Sie mir bitte sagen, wo der nächste Bahnhof ist?",
    "Meine Schwester wohnt seit drei Jahren in einem kleinen Dorf.",
    "Das Wetter soll am Wochenende endlich wieder besser werden.",
    "Wir haben gestern Abend einen sehr spannenden Film gesehen.",
    "Der Zug nach Hamburg hat heute leider zwanzig Minuten Verspätung.",
    "Ich möchte gerne eine Tasse Kaffee und ein Stück Kuchen.",
)
_LONGEST_FRAMES = 280  # 13 s: far beyond any of the sentences
_SEED = 11


@dataclass(slots=True)
class Check:
    """Everything needed to measure a model."""

    codec: Codec
    recognizer: Recognizer
    data: Path | None  # folder that holds espeak-ng-data
    sampling: Sampling
    device: torch.device
    most: int | None = None  # sentences of each list; None is all
    longest: int = _LONGEST_FRAMES  # frames after which a sentence is given up

    def __call__(self, model: DualAR) -> dict[str, float]:
        """Figures; names end in per for phoneme error rates."""
        model.eval()
        renderer = Renderer(Teacher(self.data), random.Random(_SEED))
        taught = [_plain_turn(renderer, text, "en-us") for text in SENTENCES[: self.most]]
        german = [_plain_turn(renderer, text, "de") for text in GERMAN[: self.most]]
        spoken = self._say(model, SENTENCES[: self.most])
        ratios = np.array([s.codes.shape[1] / turn.clip.frames for s, turn in zip(spoken, taught, strict=True)])
        return {
            "teacher_per": self._error_rate([_as_float(turn) for turn in taught], taught),
            "codec_per": self._error_rate(self._resynthesized(taught), taught),
            "per": self._error_rate(self._sounds(spoken), taught),
            "length_ratio": float(np.median(ratios)),
            "length_ok": float(np.mean((ratios > 0.6) & (ratios < 1.6))),
            "ended": float(np.mean([s.ended for s in spoken])),
            "german_teacher_per": self._error_rate([_as_float(turn) for turn in german], german),
            "german_per": self._error_rate(self._sounds(self._say(model, GERMAN[: self.most])), german),
        }

    def _error_rate(self, samples: Sequence[Samples], said: Sequence[Turn]) -> float:
        return error_rate(self.recognizer.phones(samples), [collapse(turn.clip.labels.tolist()) for turn in said])

    def _say(self, model: DualAR, texts: Sequence[str]) -> list[Spoken]:
        generator = torch.Generator(self.device).manual_seed(_SEED)
        return generate(model, [_plain_prompt(model, text) for text in texts], self.sampling, self.longest, generator)

    @torch.inference_mode()
    def _sounds(self, spoken: Sequence[Spoken]) -> list[Samples]:
        longest = max(1, *(s.codes.shape[1] for s in spoken))
        codes = torch.zeros(len(spoken), self.codec.codebooks, longest, dtype=torch.int64)
        for row, s in enumerate(spoken):
            codes[row, :, : s.codes.shape[1]] = torch.from_numpy(s.codes.astype(np.int64))
        samples = self.codec.decode(codes.to(self.device)).float().cpu().numpy()
        return [samples[row, : max(1, s.codes.shape[1]) * FRAME_SAMPLES] for row, s in enumerate(spoken)]

    @torch.inference_mode()
    def _resynthesized(self, turns: Sequence[Turn]) -> list[Samples]:
        clips = [torch.from_numpy(_as_float(turn))[None].to(self.device) for turn in turns]
        return [self.codec.decode(self.codec.encode(clip))[0].float().cpu().numpy() for clip in clips]


def _plain_turn(renderer: Renderer, text: str, language: str) -> Turn:
    """The teacher's rendering of one sentence."""
    return renderer.turn(TurnScript((SegmentScript((Phrase("", text, SPEAKERS[0], Style.NORMAL),)),)), language)


def _as_float(turn: Turn) -> Samples:
    """Samples of a rendered turn in [-1, 1]."""
    samples: Samples = turn.clip.samples.astype(np.float32) / np.float32(32768)
    return samples


def _plain_prompt(model: DualAR, text: str) -> Array:
    """A prompt without references."""
    writer = Writer(model.config.num_codebooks, model.config.n_semantic)
    writer.text(system_ids())
    writer.text(prompt_ids(text))
    return writer.finish()[0]

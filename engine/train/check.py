"""What the model says by itself, measured: phoneme error rate, length, endings, and whether styles act.

Knows a list of natural sentences that training never sees. A quick look during training; `engine.evaluate` is the full one.
"""

from __future__ import annotations

import random
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
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
from engine.train.styles import SPEAKERS, Speaker, Style, random_speaker
from engine.train.teacher import SAMPLE_RATE, Teacher
from engine.train.tokens import Array, Writer, conversation_tokens, prompt_ids, system_ids

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
    """Everything needed to measure a model; keeps the teacher's renderings."""

    codec: Codec
    recognizer: Recognizer
    data: Path | None  # folder that holds espeak-ng-data
    sampling: Sampling
    device: torch.device
    most: int | None = None  # sentences of each list; None is all
    longest: int = _LONGEST_FRAMES  # frames after which a sentence is given up

    def __call__(self, model: DualAR, full: bool = False) -> dict[str, float]:
        """Figures; names end in per for phoneme error rates. Unless `full`, only the quick ones: clarity and endings."""
        model.eval()
        renderer = Renderer(Teacher(self.data), random.Random(_SEED))
        texts, german_texts = SENTENCES[: self.most], GERMAN[: self.most]
        rate, taught, wanted, lengths = self._teacher(renderer, texts, "en-us")
        figures = {"teacher_per": rate, "codec_per": self._codec_error(taught, wanted)}
        spoken = self._say(model, [plain_prompt(model, text) for text in texts])
        figures["per"] = error_rate(self._recognized(spoken), wanted)
        ratios = np.array([s.codes.shape[1] / n for s, n in zip(spoken, lengths, strict=True)])
        figures |= {
            "length_ratio": float(np.median(ratios)),
            "length_ok": float(np.mean((ratios > 0.6) & (ratios < 1.6))),
        }
        figures["ended"] = float(np.mean([s.ended for s in spoken]))
        if not full:
            return figures
        german = self._teacher(renderer, german_texts, "de")
        figures["german_teacher_per"] = german[0]
        figures["german_per"] = error_rate(
            self._recognized(self._say(model, [plain_prompt(model, t) for t in german_texts])), german[2]
        )
        figures |= self._styles(model, self._sounds(spoken))
        return figures | self._cloning(model, renderer)

    def sounds(self, model: DualAR, prompts: Sequence[Array]) -> list[npt.NDArray[np.float32]]:
        """Free-running speech for prompts, as samples."""
        return self._sounds(self._say(model, prompts))

    def demonstration(self, model: DualAR) -> dict[str, npt.NDArray[np.float32]]:
        """A few renderings for human ears."""
        texts = {
            "plain": "Hello there. My name is Parley, and I speak while you are still typing.",
            "whisper": "[whisper] Can you hear me? I am right behind you.",
            "slow": "[slow] There is no need to hurry today.",
            "excited": "[excited] We have won the first prize!",
            "pause": "And the winner is [pause] number seven.",
            "speaker3": "<|speaker:3|>This is another voice speaking.",
            "german": "Guten Tag, wie kann ich Ihnen heute helfen?",
        }
        made = self.sounds(model, [plain_prompt(model, text) for text in texts.values()])
        return dict(zip(texts, made, strict=True))

    def _say(self, model: DualAR, prompts: Sequence[Array]) -> list[Spoken]:
        generator = torch.Generator(self.device).manual_seed(_SEED)
        return generate(model, prompts, self.sampling, self.longest, generator)

    @torch.inference_mode()
    def _sounds(self, spoken: Sequence[Spoken]) -> list[npt.NDArray[np.float32]]:
        longest = max(1, *(s.codes.shape[1] for s in spoken))
        codes = torch.zeros(len(spoken), self.codec.codebooks, longest, dtype=torch.int64)
        for row, s in enumerate(spoken):
            codes[row, :, : s.codes.shape[1]] = torch.from_numpy(s.codes.astype(np.int64))
        samples = self.codec.decode(codes.to(self.device)).float().cpu().numpy()
        return [samples[row, : max(1, s.codes.shape[1]) * FRAME_SAMPLES] for row, s in enumerate(spoken)]

    def _recognized(self, spoken: Sequence[Spoken]) -> list[list[int]]:
        return self.recognizer.phones(self._sounds(spoken))

    def _teacher(
        self, renderer: Renderer, texts: Sequence[str], language: str
    ) -> tuple[float, list[npt.NDArray[np.float32]], list[list[int]], list[int]]:
        """(the teacher's own error rate, its samples, what it says, its lengths in frames)."""
        turns = [plain_turn(renderer, text, language, SPEAKERS[0]) for text in texts]
        samples = [as_float(turn) for turn in turns]
        wanted = [collapse(turn.clip.labels.tolist()) for turn in turns]
        return (
            error_rate(self.recognizer.phones(samples), wanted),
            samples,
            wanted,
            [turn.clip.frames for turn in turns],
        )

    @torch.inference_mode()
    def _codec_error(self, samples: Sequence[npt.NDArray[np.float32]], wanted: list[list[int]]) -> float:
        made = [
            self.codec.decode(self.codec.encode(torch.from_numpy(s)[None].to(self.device)))[0].float().cpu().numpy()
            for s in samples
        ]
        return error_rate(self.recognizer.phones(made), wanted)

    def _styles(self, model: DualAR, plain: list[npt.NDArray[np.float32]]) -> dict[str, float]:
        """Share of sentences in which a tag moves its quantity the right way against the untagged rendering."""
        texts, figures = SENTENCES[: min(20, len(plain))], dict[str, float]()
        for style, quantity, direction in _DIRECTIONS:
            tagged = self.sounds(model, [plain_prompt(model, f"[{style.value}] {text}") for text in texts])
            moved = [direction * (quantity(a) - quantity(b)) > 0 for a, b in zip(tagged, plain, strict=False)]
            figures[style.value.replace(" ", "_")] = float(np.mean(moved))
        half = len(texts) // 2
        carried = [(f"[whisper] {text}", after) for text, after in zip(texts[:half], texts[half:], strict=False)]
        first = self._say(model, [plain_prompt(model, text) for text, _ in carried])
        prompts = [
            plain_prompt(model, after, [(text, s.codes)]) for (text, after), s in zip(carried, first, strict=True)
        ]
        second = self.sounds(model, prompts)
        figures["whisper_carried"] = float(
            np.mean([voicing(a) < voicing(b) for a, b in zip(second, plain[half:], strict=False)])
        )
        return figures

    @torch.inference_mode()
    def _cloning(self, model: DualAR, renderer: Renderer) -> dict[str, float]:
        """Share of clones whose median pitch is nearer to the unseen voice than to the default one (where these differ)."""
        rng, texts = random.Random(_SEED), SENTENCES[: self.most or 24]
        prompts, voices, right = [], [], []
        for text in texts:
            voice = random_speaker(rng, held_out=True)
            said = " ".join(rng.sample(SENTENCES[24:], 3))
            turn = plain_turn(renderer, said, "en-us", voice)
            clip = torch.from_numpy(as_float(turn))[None].to(self.device)
            codes = self.codec.encode(clip)[0].to(torch.int16).cpu().numpy()
            prompts.append(cloned_prompt(model, text, said, codes))
            voices.append(as_float(plain_turn(renderer, text, "en-us", voice)))
        default = [as_float(plain_turn(renderer, t, "en-us", SPEAKERS[0])) for t in texts]
        for made, voice_samples, default_samples in zip(self.sounds(model, prompts), voices, default, strict=True):
            timbre = [_timbre(s) for s in (made, voice_samples, default_samples)]
            right.append(float(np.abs(timbre[0] - timbre[1]).mean() < np.abs(timbre[0] - timbre[2]).mean()))
        return {"cloning": float(np.mean(right))}


def plain_turn(renderer: Renderer, text: str, language: str, speaker: Speaker) -> Turn:
    """The teacher's rendering of one sentence."""
    return renderer.turn(TurnScript((SegmentScript((Phrase("", text, speaker, Style.NORMAL),)),)), language)


def as_float(turn: Turn) -> npt.NDArray[np.float32]:
    """Samples of a rendered turn in [-1, 1]."""
    samples: npt.NDArray[np.float32] = turn.clip.samples.astype(np.float32) / np.float32(32768)
    return samples


def plain_prompt(model: DualAR, text: str, history: Sequence[tuple[str, Array]] = ()) -> Array:
    """A prompt without references, after some heard segments."""
    writer = Writer(model.config.num_codebooks, model.config.n_semantic)
    writer.text(system_ids())
    for said, codes in history:
        writer.text(prompt_ids(said))
        writer.frames(codes, ends=True)
        writer.close()
    writer.text(prompt_ids(text))
    return writer.finish()[0]


def cloned_prompt(model: DualAR, text: str, transcript: str, codes: Array) -> Array:
    """A prompt with one reference."""
    outline = {
        "references": [[{"text": transcript, "frames": codes.shape[1], "ended": True}]],
        "turns": [[{"text": text, "frames": 0, "ended": True, "learned": True}]],
    }
    matrix, _ = conversation_tokens(outline, [codes, codes[:, :0]], model.config.n_semantic)
    return matrix[:, :-2]  # without the closing of the empty message


def write_wave(path: Path, samples: npt.NDArray[np.float32]) -> None:
    """16-bit mono."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def voicing(samples: npt.NDArray[np.float32]) -> float:
    """Share of loud frames with a clear pitch."""
    track = pitch_track(samples)
    return float(np.mean(track > 0)) if len(track) else 0.0


def pitch(samples: npt.NDArray[np.float32]) -> float:
    """Median fundamental in Hz over voiced frames; 0 for none."""
    track = pitch_track(samples)
    return float(np.median(track[track > 0])) if (track > 0).any() else 0.0


def level(samples: npt.NDArray[np.float32]) -> float:
    """dB of the loud part."""
    loud = samples[np.abs(samples) > 0.005]
    return float(20 * np.log10(np.sqrt(np.mean(loud**2)))) if len(loud) else -120.0


def pitch_track(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Fundamental of each loud frame by autocorrelation, 0 where there is none."""
    size, hop = 1536, 512
    if len(samples) < size:
        return np.zeros(0)
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop].astype(np.float64)
    energy = (frames**2).mean(1)
    frames = frames[energy > 0.02 * energy.max()] * np.hanning(size)
    correlation = np.fft.irfft(np.abs(np.fft.rfft(frames, 4096)) ** 2)
    low, high = SAMPLE_RATE // 450, SAMPLE_RATE // 55
    best = low + correlation[:, low:high].argmax(1)
    clear = correlation[np.arange(len(best)), best] > 0.35 * correlation[:, 0]
    return np.where(clear, SAMPLE_RATE / best, 0.0)


def _timbre(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean log spectrum of the loud frames in 40 bands, level removed, with the pitch beside it."""
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, (0, 1024)), 1024)[::512].astype(np.float64)
    energy = (frames**2).mean(1)
    spectrum = np.abs(np.fft.rfft(frames[energy >= 0.02 * energy.max()] * np.hanning(1024))) ** 2
    edges = np.unique(np.geomspace(3, 512, 41).astype(int))
    bands = np.log10(np.stack([spectrum[:, a:b].mean(1) for a, b in pairwise(edges)], 1) + 1e-9).mean(0)
    return np.append(bands - bands.mean(), 3 * np.log10(pitch(samples) + 1.0))


_DIRECTIONS = (
    (Style.WHISPER, voicing, -1),
    (Style.SLOW, len, 1),
    (Style.FAST, len, -1),
    (Style.HIGH, pitch, 1),
    (Style.LOW, pitch, -1),
    (Style.LOUD, level, 1),
    (Style.SOFT, level, -1),
    (Style.EXCITED, pitch, 1),
    (Style.SAD, pitch, -1),
)

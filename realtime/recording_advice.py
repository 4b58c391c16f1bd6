"""What is wrong with a recording as the reference of a voice, in words that say how to cure it.

Knows measures, transcripts, and what people record with. Does not know samples. Advice never refuses: whoever has one recording of a voice
that is dear to them may use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from math import log10
from typing import Final

from protocol.config import TagMode
from realtime.characters import facts
from realtime.durations import spoken_ms
from realtime.recording import Measures
from realtime.tags import Text, lex

SHORT_S: Final = 10.0
LONG_S: Final = 30.0
RATE_HZ: Final = 44_100
LOUD_PEAK: Final = 10 ** (-3 / 20)
FLAT_TOPS: Final = 3  # undamaged speech had one at most, speech clipped at 1.5 times full scale 16 at least
NOISE_DB: Final = 30.0  # hiss 30 dB below the speech is heard in every pause
TONES_DB: Final = 38.0  # a tune is noticed where hiss is not
FLATNESS_OF_TONES: Final = 0.1  # chords had 0.08 at most, rooms 0.12 at least, noise 0.55
FLATNESS_OF_ROOMS: Final = 0.53
DECAY_S: Final = 0.3  # dry speech had 0.07 at most, a room of 0.4 s 0.32 at least
ENOUGH_S: Final = 6.0  # of dry speech, to have shown two words that ended
SILENCE_S: Final = 1.0
# Time that the text takes with espeak-ng's normal speed, over the time in which something is said. Its own speech at 140 to 180 words a
# minute had 0.62 to 0.90, with half of the words missing 0.45 at most; somebody in a hurry says a third more than it does.
PACE: Final = (0.45, 1.5)


class Problem(Enum):
    """What advice is about."""

    SHORT = "short"
    LONG = "long"
    RATE = "rate"
    LOSSY = "lossy"
    EDGE = "edge"
    CLIPPED = "clipped"
    LOUD = "loud"
    CANCELLED = "cancelled"
    NOISE = "noise"
    TONES = "tones"
    ROOM = "room"
    SILENCE = "silence"
    TEXT_TOO_LONG = "text_too_long"
    TEXT_TOO_SHORT = "text_too_short"


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that could be better."""

    problem: Problem
    text: str  # a sentence that says what, and what to do


@dataclass(frozen=True, slots=True)
class Origin:
    """What the file says of how the samples came about."""

    encoding: str  # as a person knows it: MP3, Ogg Vorbis, 16 bit PCM
    lossy: bool
    channels: int
    loudest_channel_db: float  # root mean square of the loudest channel above that of the mix


def advise(measures: Measures, origin: Origin, text: str) -> tuple[Advice, ...]:
    """Everything that could be better, the gravest first."""
    found = [*_level(measures, origin), *_background(measures), *_source(measures, origin)]
    return (*found, *_extent(measures), *_transcript(measures, text))


def _level(measures: Measures, origin: Origin) -> Iterator[Advice]:
    if measures.flat_tops >= FLAT_TOPS:
        yield Advice(
            Problem.CLIPPED,
            f"the wave is cut off level in {measures.flat_tops} places (clipping), which sounds harsh and cannot be mended: "
            "record again with the input turned down",
        )
    elif measures.peak > LOUD_PEAK:
        yield Advice(
            Problem.LOUD,
            f"it peaks at {_db(measures.peak):.1f} dB of full scale, above -3 dB, so loud words may distort: "
            "turn the input down, to peaks of about -6 dB",
        )
    if origin.channels > 1 and origin.loudest_channel_db > 6:
        yield Advice(
            Problem.CANCELLED,
            f"its {origin.channels} channels cancel each other when they are mixed into one "
            f"({origin.loudest_channel_db:.0f} dB are lost): give one channel alone",
        )


def _background(measures: Measures) -> Iterator[Advice]:
    noise_db, flatness, decay_s = measures.noise_db, measures.flatness, measures.decay_s
    room = decay_s is not None and decay_s > DECAY_S
    if noise_db is not None and flatness is not None:
        if flatness < FLATNESS_OF_TONES and noise_db < TONES_DB:
            yield Advice(
                Problem.TONES,
                f"between the words there is music, hum or another steady tone, {noise_db:.0f} dB below the speech; "
                "it will be in the voice: record without it",
            )
        elif decay_s is None and flatness < FLATNESS_OF_ROOMS and (noise_db < NOISE_DB or measures.spoken_s > ENOUGH_S):
            room = True  # it rings on from word to word, so that no end can be seen
        elif noise_db < NOISE_DB and not room:
            yield Advice(
                Problem.NOISE,
                f"what is heard between the words is only {noise_db:.0f} dB below the speech, and 30 dB or more are wanted; "
                "the noise will be in the voice: go nearer to the microphone, switch off fans, or record elsewhere",
            )
    if room:
        time = f", with a reverberation time of about {decay_s:.1f} s" if decay_s is not None else " into the next ones"
        yield Advice(
            Problem.ROOM,
            f"the room rings on after the words{time}; the voice will always sound as in that room: "
            "record nearer to the microphone, among curtains, clothes or cushions",
        )


def _source(measures: Measures, origin: Origin) -> Iterator[Advice]:
    if origin.lossy:
        yield Advice(
            Problem.LOSSY,
            f"it is a lossy file ({origin.encoding}), and what the encoder left out the voice will lack, too: "
            "use the original recording, as WAV or FLAC",
        )
    if measures.rate < RATE_HZ:
        yield Advice(
            Problem.RATE,
            f"its sample rate is {measures.rate} Hz, so it holds nothing above {measures.rate / 2000:g} kHz and the voice will be dull: "
            "record at 44.1 or 48 kHz (converting this file to that rate brings nothing back)",
        )
    elif measures.edge_hz is not None and not origin.lossy:
        yield Advice(
            Problem.EDGE,
            f"above {measures.edge_hz / 1000:.0f} kHz it holds nothing: it was once a lossy file (MP3, a call, a video) or had a lower "
            "sample rate, and the voice will be dull or metallic: use the original recording",
        )


def _extent(measures: Measures) -> Iterator[Advice]:
    if measures.seconds < SHORT_S:
        yield Advice(
            Problem.SHORT,
            f"it is {measures.seconds:.1f} s long, so the voice may drift from turn to turn: 10 to 30 s are best",
        )
    elif measures.seconds > LONG_S:
        yield Advice(
            Problem.LONG,
            f"it is {measures.seconds:.1f} s long, which takes memory and time in every conversation and makes no better voice: "
            "10 to 30 s are best",
        )
    for seconds, where, what in ((measures.before_s, "begins", "before"), (measures.after_s, "ends", "after")):
        if seconds > SILENCE_S:
            yield Advice(
                Problem.SILENCE,
                f"it {where} with {seconds:.1f} s of silence, which the voice will make, too: "
                f"cut it, but for about 0.2 s {what} the words",
            )


def _transcript(measures: Measures, text: str) -> Iterator[Advice]:
    spoken = "".join(token.raw for token in lex(text, TagMode.PERFORM) if isinstance(token, Text))
    pace = sum(map(spoken_ms, spoken.split())) / 1000 / measures.spoken_s
    characters = sum(facts(char).speakable for char in spoken)
    rate = f"{characters / measures.spoken_s:.0f} characters for each of the {measures.spoken_s:.1f} seconds of speech"
    if pace > PACE[1]:
        yield Advice(
            Problem.TEXT_TOO_LONG,
            f"the transcript has {rate}, more than anybody says: it must hold the words of this recording and no others",
        )
    elif pace < PACE[0]:
        yield Advice(
            Problem.TEXT_TOO_SHORT,
            f"the transcript has only {rate}: it must hold every word that is said in the recording",
        )


def _db(value: float) -> float:
    return 20 * log10(max(value, 1e-9))

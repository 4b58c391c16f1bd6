"""How well a session hears: `python -m realtime.hearing_report`.

Feeds the ear, as a client's messages would, with speech in the noises of rooms, with those noises alone, and with the agent's own voice out
of a loudspeaker; prints tables, one line of JSON, and exits with 1 where a promise is broken. Speech is espeak-ng's, or that of a folder of
recordings (`--speech`): real voices and real rooms differ, so whoever deploys this should measure with his own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import soxr

from protocol.commands import UplinkFormat
from realtime.audio import to_int16
from realtime.ear import Ear, PlayedDb
from realtime.g711 import encode_mulaw
from realtime.hearing_sounds import (
    NoSpeech,
    Phrase,
    Sound,
    answer,
    babble,
    echo,
    noises,
    over_noise,
    phrases,
)
from realtime.opus import OpusEncoder
from realtime.sent_levels import SentLevels
from realtime.uplink import DEFAULT_RATES_HZ, RATE_HZ, UplinkAudio
from realtime.voice_activity import SileroModel, Turned, level_db

MESSAGE_MS: Final = 20  # what telephones and browsers send
MIN_SPEECH_MS: Final = 200  # the protocol's default
QUIET_S: Final = 1.0  # before each phrase
LATE_S: Final = 0.5  # a start so long after the phrase's end is still its start
ROOM_DB: Final = 40.0  # below speech: the quietest room there is
TALKOVER_AT_S: Final = 6.0  # of the agent's speech, when somebody interrupts it
NEVER_MS: Final = 60_000.0
PROMISED_SNR_DB: Final = 10.0  # what is below is reported
PROMISED_LOUDER_DB: Final = 16  # than the echo of the agent
PROMISED_P50_MS: Final = 260
PROMISED_P95_MS: Final = 450
PROMISED_MISSED: Final = 0.03  # share of phrases
PROMISED_FALSE_A_MINUTE: Final = 0.2  # in noise, and while the agent speaks into an open microphone


@dataclass(frozen=True, slots=True)
class Starts:
    """How starts of speech were noticed under one condition."""

    condition: str
    phrases: int
    missed: int
    early: int  # starts noticed before there was any speech
    torn: int  # phrases that were taken for more than one
    delay_p50_ms: float  # from the first audible sample to the message that told
    delay_p95_ms: float
    stop_p50_ms: float  # from the last audible sample
    promised: bool  # or only reported


@dataclass(frozen=True, slots=True)
class Alarms:
    """Starts noticed where nobody spoke."""

    condition: str
    minutes: float
    alarms: int
    unguarded: int | None = None  # the same without a guard against our own voice
    promised: bool = True  # or only reported

    @property
    def a_minute(self) -> float:
        return self.alarms / self.minutes


@dataclass(frozen=True, slots=True)
class Event:
    """What the ear told, and when."""

    what: Turned
    told_s: float  # since the first sample


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m realtime.hearing_report", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--speech", type=Path, help="folder of recordings, one phrase each; espeak-ng speaks if it is not given"
    )
    parser.add_argument("--voice", type=Path, help="folder of recordings of the agent's voice")
    parser.add_argument("--quick", action="store_true", help="an eighth of the phrases and of the noise")
    options = parser.parse_args(arguments)
    try:
        said, own = phrases(options.speech), answer(options.voice)
    except NoSpeech as problem:
        print(problem, file=sys.stderr)
        return 2
    said = said[::8] if options.quick else said
    starts = in_noise(said) + over_own_voice(said, own)
    alarms = in_silence(15.0 if options.quick else 120.0, said) + alone(own)
    print(_starts_table(starts), _alarms_table(alarms), sep="\n\n", end="\n\n")
    broken = broken_promises(starts, alarms)
    for text in broken:
        print("BROKEN:", text)
    print(json.dumps({"starts": [asdict(s) for s in starts], "alarms": [asdict(a) for a in alarms], "broken": broken}))
    return 1 if broken else 0


def in_noise(said: Sequence[Phrase]) -> list[Starts]:
    """Phrases one by one in several noises and through several formats."""
    rooms = noises(20.0)
    pcm, mulaw, opus = UplinkFormat.PCM_S16LE, UplinkFormat.MULAW, UplinkFormat.OPUS
    conditions = [("quiet room", "pink", ROOM_DB, pcm)]
    conditions += [(f"pink noise, {snr} dB", "pink", snr, pcm) for snr in (20, 10, 5, 0)]
    conditions += [(f"{name}, 10 dB", name, 10, pcm) for name in ("traffic", "keyboard", "music")]
    conditions += [(f"phone (mu-law, 8 kHz), {snr} dB", "pink", snr, mulaw) for snr in (20, 10)]
    conditions += [("Opus, 20 dB", "pink", 20, opus)]
    return [
        _starts(name, said, _scene(rooms[noise], snr), codec, nothing, promised=snr >= PROMISED_SNR_DB)
        for name, noise, snr, codec in conditions
    ]


def over_own_voice(said: Sequence[Phrase], own: Sound) -> list[Starts]:
    """Phrases while the agent speaks: into a headset, and over its echo."""
    room = noises(20.0)["pink"]
    results = []
    for name, louder_db in (
        ("headset", None),
        ("echo 16 dB below", 16),
        ("echo 10 dB below", 10),
        ("echo 6 dB below", 6),
    ):
        heard = np.zeros_like(own) if louder_db is None else echo(own, -louder_db, 0.2, 0.4)
        scene = _scene(room, ROOM_DB, over_noise(heard, ROOM_DB, room))
        promised = louder_db is None or louder_db >= PROMISED_LOUDER_DB
        results.append(_starts(f"agent speaks, {name}", said, scene, UplinkFormat.PCM_S16LE, played(own), promised))
    return results


def in_silence(seconds: float, said: Sequence[Phrase]) -> list[Alarms]:
    """Noises without speech; last the one that is made of speech."""

    def row(name: str, sound: Sound, promised: bool) -> Alarms:
        alarms = _count(listen(sound, UplinkFormat.PCM_S16LE, nothing), Turned.STARTED)
        return Alarms(name, seconds / 60, alarms, promised=promised)

    rows = [row(name, sound, promised=True) for name, sound in noises(seconds).items()]
    return [*rows, row("babble of eight (is speech)", babble(said, seconds), promised=False)]


def alone(own: Sound) -> list[Alarms]:
    """The agent, and a microphone that hears it: none of it is somebody else."""
    own = np.concatenate([own, own])
    results = [_echoes(f"own voice, echo at {gain_db} dB", own, gain_db, played(own)) for gain_db in (-40, -20, -10, 0)]
    for wrong_s, promised in ((0.03, True), (0.06, False)):
        name = f"own voice, echo at -10 dB, distorted, clock off by up to {wrong_s * 1000:.0f} ms"
        row = _echoes(name, own, -10, wandering(played(own), wrong_s), drive=20)
        results.append(replace(row, promised=promised))
    return results


def _echoes(name: str, own: Sound, gain_db: float, guard: PlayedDb, drive: float = 0) -> Alarms:
    """Through a near and a far loudspeaker. drive: how hard they are driven; at 20 the peaks of speech are flat."""
    room, alarms, unguarded = noises(20.0)["pink"], 0, 0
    for delay_s, decay_s in ((0.06, 0.2), (0.3, 0.6)):
        heard = echo(own, gain_db, delay_s, decay_s)
        sound = over_noise(np.tanh(heard * drive) / drive if drive else heard, ROOM_DB, room)
        alarms += _count(listen(sound, UplinkFormat.PCM_S16LE, guard), Turned.STARTED)
        unguarded += _count(listen(sound, UplinkFormat.PCM_S16LE, nothing), Turned.STARTED)
    return Alarms(name, 2 * len(own) / RATE_HZ / 60, alarms, unguarded)


def wandering(played_db: PlayedDb, up_to_s: float) -> PlayedDb:
    """As a clock tells that is wrong by another amount each second: acks that come late, buffers that grow."""
    wrong_s = np.random.default_rng(6).uniform(-up_to_s, up_to_s, 600)
    return lambda start, end: played_db(start + wrong_s[int(end)], end + wrong_s[int(end)])


def listen(sound: Sound, codec: UplinkFormat, played_db: PlayedDb) -> list[Event]:
    """What an ear tells of a recording that arrives message by message, each when its last sample was recorded."""
    rate = DEFAULT_RATES_HZ[codec]
    ear = Ear(UplinkAudio(codec, rate), MESSAGE_MS, MIN_SPEECH_MS / 1000, SileroModel())
    events = []
    for index, payload in enumerate(_messages(sound, codec, rate)):
        now = (index + 1) * MESSAGE_MS / 1000
        events += [Event(item.what, now) for item in ear.hear(payload, None, now, played_db)]
    return events


def played(own: Sound) -> PlayedDb:
    """The agent's speech, as the playback clock of a session tells it: played from the recording's first moment on."""
    packet = RATE_HZ * MESSAGE_MS // 1000
    levels = SentLevels()
    for index in range(len(own) // packet):
        level = level_db(own[index * packet : (index + 1) * packet])
        levels.put(index * MESSAGE_MS, (index + 1) * MESSAGE_MS, level)
    return lambda start_s, end_s: levels.loudest_db(start_s * 1000, end_s * 1000)


def nothing(_start: float, _end: float) -> float | None:
    """Nothing is played, or nobody knows."""
    return None


def broken_promises(starts: Sequence[Starts], alarms: Sequence[Alarms]) -> list[str]:
    """What the figures do not keep, in words."""
    broken = []
    for row in starts:
        if not row.promised:
            continue
        if row.missed > PROMISED_MISSED * row.phrases:
            broken.append(f"{row.condition}: {row.missed} of {row.phrases} starts were missed")
        if row.delay_p50_ms > PROMISED_P50_MS or row.delay_p95_ms > PROMISED_P95_MS:
            broken.append(f"{row.condition}: delay p50 {row.delay_p50_ms:.0f}, p95 {row.delay_p95_ms:.0f} ms")
    broken += [
        f"{row.condition}: {row.a_minute:.2f} false alarms a minute"
        for row in alarms
        if row.promised and row.a_minute > PROMISED_FALSE_A_MINUTE
    ]
    return broken


def _scene(noise: Sound, snr_db: float, behind: Sound | None = None) -> Callable[[Phrase], tuple[Sound, float]]:
    """Puts a phrase into a room; returns the recording and when the phrase begins."""

    def place(phrase: Phrase) -> tuple[Sound, float]:
        begins_s = QUIET_S if behind is None else TALKOVER_AT_S
        before, after = np.zeros(int(begins_s * RATE_HZ), np.float32), np.zeros(RATE_HZ, np.float32)
        sound = over_noise(np.concatenate((before, phrase.sound, after)), snr_db, noise)
        if behind is not None:
            rest = behind[: len(sound)]
            sound[: len(rest)] += rest
        return sound, begins_s

    return place


def _starts(
    condition: str,
    said: Sequence[Phrase],
    place: Callable[[Phrase], tuple[Sound, float]],
    codec: UplinkFormat,
    played_db: PlayedDb,
    promised: bool,
) -> Starts:
    delays, stops, missed, early, torn = [], [], 0, 0, 0
    for phrase in said:
        sound, begins_s = place(phrase)
        ends_s = begins_s + len(phrase.sound) / RATE_HZ
        events = listen(sound, codec, played_db)
        early += any(event.what is Turned.STARTED and event.told_s < begins_s for event in events)
        mine = [event for event in events if begins_s <= event.told_s]
        started = [event.told_s for event in mine if event.what is Turned.STARTED and event.told_s < ends_s + LATE_S]
        stopped = [event.told_s for event in mine if event.what is Turned.STOPPED and event.told_s > ends_s]
        missed += not started
        torn += len(started) > 1
        delays += [1000 * (told - begins_s) for told in started[:1]]
        stops += [1000 * (told - ends_s) for told in stopped[:1]]
    # Where nothing was noticed there is no delay; what stands there then breaks the promise.
    p50, p95 = np.percentile(delays, [50, 95]) if delays else (NEVER_MS, NEVER_MS)
    stop = float(np.median(stops)) if stops else NEVER_MS
    return Starts(
        condition, len(said), missed, early, torn, round(float(p50)), round(float(p95)), round(stop), promised
    )


def _messages(sound: Sound, codec: UplinkFormat, rate: int) -> list[bytes]:
    """What a client would send."""
    resampled = sound if rate == RATE_HZ else soxr.resample(sound, RATE_HZ, rate)
    step = rate * MESSAGE_MS // 1000
    pieces = [resampled[start : start + step] for start in range(0, len(resampled) - step + 1, step)]
    if codec is UplinkFormat.OPUS:
        encoder = OpusEncoder(MESSAGE_MS)
        return [encoder.encode(piece) for piece in pieces]
    encode = encode_mulaw if codec is UplinkFormat.MULAW else lambda samples: samples.astype("<i2").tobytes()
    return [encode(to_int16(piece)) for piece in pieces]


def _count(events: Sequence[Event], what: Turned) -> int:
    return sum(event.what is what for event in events)


def _starts_table(rows: Sequence[Starts]) -> str:
    head = "| speech | phrases | missed | too early | torn | delay p50 | p95 | stop p50 |\n|---|---|---|---|---|---|---|---|"
    lines = [
        f"| {row.condition} | {row.phrases} | {row.missed} | {row.early} | {row.torn} | {row.delay_p50_ms:.0f} ms "
        f"| {row.delay_p95_ms:.0f} ms | {row.stop_p50_ms:.0f} ms |"
        for row in rows
    ]
    return "\n".join([head, *lines])


def _alarms_table(rows: Sequence[Alarms]) -> str:
    head = "| no speech | minutes | false alarms | a minute | without the guard |\n|---|---|---|---|---|"
    lines = [
        f"| {row.condition} | {row.minutes:.1f} | {row.alarms} | {row.a_minute:.2f} "
        f"| {'' if row.unguarded is None else row.unguarded} |"
        for row in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    raise SystemExit(main())

"""One microphone: from its messages to the start and the end of somebody's speech.

Knows the way through decoder, model, our own voice and detector, and when what was heard was said. Does not know turns, or what follows
from speech. Costs 0.15 ms for each 32 ms of sound, where it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from realtime.own_voice import OwnVoice
from realtime.uplink import RecordingClock, Uplink, UplinkAudio
from realtime.voice_activity import HOP_S, Hop, Hops, SpeechDetector, SpeechModel, Turned

# Without any message somebody who speaks has stopped: muted, or the network has. More than what counts as late
# (`uplink.MAX_LATENESS_S`), less than a pause may last.
MUTE_S: Final = 1.0

PlayedDb = Callable[
    [float, float], float | None
]  # level of what is played between two times, in dB; None: nothing, or unknown


@dataclass(frozen=True, slots=True)
class Noticed:
    """Speech started or stopped."""

    what: Turned
    at: float  # when it did, in our time: before it could be known


class Ear:
    """One uplink. Raises OpusUnavailable where it cannot be decoded on this machine."""

    def __init__(self, audio: UplinkAudio, message_ms: int, min_speech_s: float, model: SpeechModel) -> None:
        """message_ms: the longest message that is taken."""
        self.own_voice = OwnVoice()
        self._audio = audio
        self._message_ms = message_ms
        self._model = model
        self._detector = SpeechDetector(min_speech_s)
        self._uplink = Uplink(audio, message_ms)
        self._hops = Hops(model)
        self._clock = RecordingClock()
        self._started_at = 0.0  # our time of the recording's first sample
        self._heard_at = 0.0  # our time of the last message

    @property
    def speaking(self) -> bool:
        """Whether somebody speaks."""
        return self._detector.speaking

    @property
    def began_at(self) -> float:
        """When the speech that lasts began, in our time."""
        return self._started_at + self._detector.began_s

    @property
    def last_speech_at(self) -> float:
        """Up to when somebody was heard to speak, in our time."""
        return self._started_at + self._detector.ended_s

    @property
    def mute_at(self) -> float:
        """When `mute` is due if no message comes. Only while somebody speaks."""
        return self._heard_at + MUTE_S

    def hear(self, payload: bytes, position: int | None, now: float, played_db: PlayedDb) -> list[Noticed]:
        """The next message. Raises ValueError, as `Uplink.push` does, and has then heard nothing."""
        hops = self._hops.push(self._uplink.push(payload, position))
        self._heard_at = now
        self._started_at = self._clock.arrived(self._hops.fed_s, now)
        return [noticed for hop in hops if (noticed := self._judge(hop, played_db)) is not None]

    def restart(self) -> list[Noticed]:
        """Another recording begins, at position 0."""
        noticed = self.mute()
        self._uplink = Uplink(self._audio, self._message_ms)
        self._hops = Hops(self._model)
        self._clock = RecordingClock()
        self._model.reset()
        return noticed

    def mute(self) -> list[Noticed]:
        """No more is heard for now: speech that lasts is over."""
        return [self._noticed(what)] if (what := self._detector.stop()) is not None else []

    def _judge(self, hop: Hop, played_db: PlayedDb) -> Noticed | None:
        ends_at = self._started_at + hop.ends_s
        ours = self.own_voice.explains(hop.level_db, played_db(ends_at - HOP_S, ends_at), self._detector.maybe)
        what = self._detector.hear(hop, counts=not ours)
        return None if what is None else self._noticed(what)

    def _noticed(self, what: Turned) -> Noticed:
        detector = self._detector
        return Noticed(what, self._started_at + (detector.began_s if what is Turned.STARTED else detector.ended_s))

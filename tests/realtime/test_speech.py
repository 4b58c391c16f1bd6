"""One attempt to speak a turn: what is encoded, and when. The encoder notes what it is given, and does it when told to."""

from __future__ import annotations

from collections.abc import Callable

from realtime.audio import AudioPacket
from realtime.speech import PIECE_FRAMES, READY_MS, Job, Speech
from tests.realtime.stage import Stage, words


class Noting:
    """Does its jobs when `work` is called; without `wait`, at once."""

    def __init__(self, wait: bool = False) -> None:
        self.told: list[bool] = []  # for each job, whether the turn could go on then
        self.samples = 0  # at the output rate
        self._wait = wait
        self._jobs: list[tuple[Job, Callable[[list[AudioPacket]], bool]]] = []

    def do(self, job: Job, done: Callable[[list[AudioPacket]], bool]) -> None:
        self._jobs.append((job, done))
        if not self._wait:
            self.work()

    def work(self) -> None:
        jobs, self._jobs = self._jobs, []
        for job, done in jobs:
            packets = job()
            self.samples += sum(packet.samples for packet in packets)
            self.told.append(done(packets))


def speaking(encoder: Noting, seconds: float) -> tuple[Stage, Speech]:
    """A long turn that has been speaking for so long, encoded by `encoder` from its second frame on."""
    stage = Stage(step_s=0.001)
    stage.say(words(200), turn="a")
    speech = stage.session.floor.turns[0].speech
    assert speech is not None
    speech.encode_with(encoder)
    stage.run(seconds)
    return stage, speech


def test_no_more_is_encoded_than_what_leaves_soon() -> None:
    encoder = Noting()
    stage, speech = speaking(encoder, 3.0)
    frame_ms = stage.engine.info.frame_s * 1000
    encoded_ms = encoder.samples * 1000 / stage.session.floor.turns[0].options.fmt.rate
    assert speech.utterance.generated_ms > stage.sent_ms(1) + 2 * READY_MS, "much more was generated"
    assert stage.sent_ms(1) < encoded_ms <= stage.sent_ms(1) + READY_MS + PIECE_FRAMES * frame_ms
    before = encoder.samples
    stage.send("turn.cancel")
    stage.run(1.0)
    assert encoder.samples == before, "nothing of it is encoded any more"


def test_only_packets_that_were_waited_for_let_the_turn_go_on() -> None:
    encoder = Noting(wait=True)
    _, speech = speaking(encoder, 0.5)
    assert speech.next_span() is None, "nothing was encoded yet"
    encoder.work()
    assert encoder.told[0] and not any(encoder.told[1:])
    assert speech.next_span() is not None

"""What the core does when the model produces no speech, or a caller what cannot be spoken.

Where random weights cannot be told to fail in a given way, a script stands in for the drawn frames; everything else is real. NaN is
real where it is written into KV.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import commands as c
from engine.api import Conversation, Reference, SamplingParams, SegmentRetried, SpokenSegment, SynthesisFailed, Voice
from engine.core import EngineCore
from engine.runner import Drawn, FrameDrawn, Outcome
from tests.engine.core_driver import (
    Driver,
    Heard,
    assert_nothing_leaked,
    random_codes,
    spoken,
    tiny_core,
    tiny_model,
    voice,
)

SENTENCE = "This sentence takes a good while to say."
END, NAN, LOUD, QUIET, NAN_SAMPLES = Outcome.END, Outcome.NAN, 0.3, 0.0, float("nan")
LEVELS = (LOUD, QUIET, NAN_SAMPLES)  # a scripted frame's codes are its place in this list
MakeScripted = Callable[..., EngineCore]


@pytest.fixture(params=[(False, 1), (True, 1), (True, 3)], ids=["inline", "beside", "several"])
def scripted(s2pro: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MakeScripted:
    """A guarded core whose row i draws what the i-th script says, and then nothing but ends; with each kind of decoder."""
    monkeypatch.setattr("engine.core.ENOUGH_S", 0.0)  # a frame may wait for others as soon as one was delivered

    def make(*scripts: Iterable[Outcome | float]) -> EngineCore:
        core = tiny_core(s2pro, guarded=True)
        script = Script(core, scripts, *request.param)
        core._runner.draw = script.draw  # type: ignore[method-assign]
        core._runner.take_back = script.take_back  # type: ignore[method-assign]
        core._decoding.decoder = script
        return core

    return make


class Script:
    """Draws what it was told for each row, and decodes that to a level. The n-th draw that was not taken back has the n-th entry."""

    def __init__(
        self, core: EngineCore, scripts: Iterable[Iterable[Outcome | float]], beside: bool, several: int
    ) -> None:
        self.beside, self.several = beside, several
        self._core = core
        self._ahead = [chain(script, repeat(END)) for script in scripts]
        self._drew: dict[int, list[Outcome | float]] = {}  # each row, what was not taken back
        self._decoding: np.ndarray | None = None

    def draw(self, hidden: object, rows: Sequence[int], sequences: object) -> list[Drawn]:
        for row in rows:
            self._drew.setdefault(row, []).append(next(self._ahead[row]))
        return [self._drawn(self._drew[row][-1]) for row in rows]

    def take_back(self, row: int) -> None:
        self._ahead[row] = chain([self._drew[row].pop()], self._ahead[row])

    def start(self, codes: np.ndarray, rows: Sequence[int]) -> None:
        assert self._decoding is None, "what was started is finished first"
        assert len(codes) == len(rows) and codes.shape[2] <= self.several and 1 in (len(codes), codes.shape[2])
        self._decoding = codes[:, 0]

    def is_done(self) -> bool:
        return True

    def finish(self) -> np.ndarray:
        assert self._decoding is not None, "something was started"
        levels, self._decoding = np.array(LEVELS, np.float32)[self._decoding], None
        return levels.repeat(self._core.info.frame_samples, axis=1)

    def reset(self, row: int) -> None:
        pass

    def close(self) -> None:
        pass

    def _drawn(self, wanted: Outcome | float) -> Drawn:
        if isinstance(wanted, Outcome):
            return wanted
        level = next(i for i, level in enumerate(LEVELS) if level is wanted)
        codes = np.full(self._core.info.codebooks, level, np.int16)
        return FrameDrawn(codes, self._core._prompts.frames(codes[:, None]))


def run(core: EngineCore, *texts: str) -> Heard:
    driver = Driver(core)
    heard = driver.open(Conversation("a"), *texts, frames=10_000)
    driver.run(5000)
    assert heard.ended is not None
    assert_nothing_leaked(core)
    return heard


def error_of(heard: Heard) -> SynthesisFailed:
    assert heard.ended is not None and isinstance(heard.ended.error, SynthesisFailed)
    return heard.ended.error


def cuts(heard: Heard) -> list[tuple[int, str | None]]:
    assert heard.ended == c.Ended()
    return [(end.frames, end.cut) for end in heard.ends]


# -- output that is no speech -------------------------------------------------------------------------------------------------------------


def test_a_segment_that_ends_at_once_is_tried_again_and_nobody_hears_of_it(scripted: MakeScripted) -> None:
    heard = run(scripted([END, *[LOUD] * 40]), SENTENCE)
    assert heard.retries == [SegmentRetried(0, "empty")]
    assert len(heard.frames) == 40 and cuts(heard) == [(40, None)]


def test_a_segment_that_ends_at_once_twice_is_an_error(scripted: MakeScripted) -> None:
    heard = run(scripted([END, END]), SENTENCE)
    assert error_of(heard).code == "degenerate" and heard.frames == []


def test_one_frame_of_noise_is_never_a_success(scripted: MakeScripted) -> None:
    text = "A long sentence of which one single frame of sound can never be a reading at all."
    assert error_of(run(scripted([LOUD, END]), text)).code == "degenerate"


def test_a_later_segment_without_speech_is_left_out_and_the_turn_goes_on(scripted: MakeScripted) -> None:
    heard = run(scripted([*[LOUD] * 30, END, END, END, *[LOUD] * 35]), *[SENTENCE] * 3)
    assert cuts(heard) == [(30, None), (0, "empty"), (35, None)]
    assert [frame.segment for frame in heard.frames] == [0] * 30 + [2] * 35


@pytest.mark.parametrize("broken", [NAN, NAN_SAMPLES], ids=["in the model", "in the codec"])
def test_nan_in_the_first_frame_is_tried_again(scripted: MakeScripted, broken: Outcome | float) -> None:
    heard = run(scripted([broken, *[LOUD] * 40]), SENTENCE)
    assert heard.retries == [SegmentRetried(0, "nan")]
    assert len(heard.frames) == 40 and all(np.isfinite(frame.samples).all() for frame in heard.frames)


@pytest.mark.parametrize("broken", [NAN, NAN_SAMPLES], ids=["in the model", "in the codec"])
def test_nan_later_cuts_the_segment_and_the_next_one_is_spoken(scripted: MakeScripted, broken: Outcome | float) -> None:
    heard = run(scripted([*[LOUD] * 12, broken, *[LOUD] * 30]), SENTENCE, SENTENCE)
    assert cuts(heard) == [(12, "nan"), (30, None)]


def test_a_runaway_is_cut_at_its_bound(scripted: MakeScripted) -> None:
    heard = run(scripted(repeat(LOUD)), "Hi.")
    assert heard.ends[0].cut == "runaway" and heard.ended == c.Ended()
    assert heard.samples.size / 44100 < 5.0


def test_dead_air_is_cut_and_not_kept(scripted: MakeScripted) -> None:
    core = scripted([*[LOUD] * 20, *[QUIET] * 200])
    driver = Driver(core)
    heard = driver.open(Conversation("a"), SENTENCE, frames=10_000, finish=False)
    driver.run()
    assert [(end.frames, end.cut) for end in heard.ends] == [(20, "silence")]
    assert core._streams[heard.key].past[-1].shape == core._prompts.spoken(heard.codes[:, :20]).shape


def test_nothing_but_silence_is_an_error(scripted: MakeScripted) -> None:
    assert error_of(run(scripted(repeat(QUIET)), SENTENCE)).code == "degenerate"


@pytest.mark.parametrize(
    "script", [[QUIET] * 10, repeat(QUIET), [], [LOUD] * 5], ids=["quiet", "dead", "empty", "loud"]
)
def test_a_laugh_that_is_hardly_heard_fails_nothing(scripted: MakeScripted, script: Iterable[float]) -> None:
    heard = run(scripted(script), "[laugh]")
    assert heard.ended == c.Ended() and len(heard.ends) == 1


def test_frame_numbers_have_no_gap_across_a_retry_and_a_cut(scripted: MakeScripted) -> None:
    heard = run(scripted([END, *[LOUD] * 12, NAN, *[LOUD] * 30]), SENTENCE, SENTENCE)
    assert [frame.index for frame in heard.frames] == list(range(42))


def test_a_retry_draws_other_frames(s2pro: Path) -> None:
    core = tiny_core(s2pro, guarded=True)
    real, calls = core._runner.draw, []

    def draw(hidden: Sequence[object], rows: Sequence[int], sequences: object) -> list[Drawn]:
        calls.append(real(hidden, rows))  # type: ignore[arg-type]
        return [Outcome.END] if len(calls) == 1 else calls[-1]

    core._runner.draw = draw  # type: ignore[method-assign,assignment]
    driver = Driver(core)
    heard = driver.open(Conversation("a"), SENTENCE, frames=3, params=SamplingParams())
    driver.run()
    rejected = calls[0][0]
    assert isinstance(rejected, FrameDrawn) and heard.retries == [SegmentRetried(0, "empty")]
    assert (heard.frames[0].codes != rejected.codes).any()


# -- NaN in KV, as a half-precision overflow leaves it. Noticed with the guard off too, which random weights need ------------------------


@pytest.fixture
def endless(s2pro: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model never ends a segment."""
    model = tiny_model(s2pro).model
    real = model.head

    def head(h: torch.Tensor) -> torch.Tensor:
        logits = real(h).clone()
        logits[..., -1] = -1e4
        return logits

    monkeypatch.setattr(model, "head", head)


def poisoned(core: EngineCore, conversation: str) -> None:
    core.cache.pool.values[:, core.cache._conversations[conversation].pages] = float("nan")


@pytest.mark.usefixtures("endless")
def test_nan_in_kv_is_noticed_before_it_is_heard_as_noise(s2pro: Path) -> None:
    driver = Driver(core := tiny_core(s2pro))
    heard = driver.open(Conversation("a"), SENTENCE, "Then this.", frames=4)
    driver.run()
    poisoned(core, "a")
    core.handle(c.Allow(heard.key, 7))
    driver.run()
    assert [(end.frames, end.cut) for end in heard.ends] == [(4, "nan")]
    assert [frame.segment for frame in heard.frames] == [0] * 4 + [1] * 3


@pytest.mark.usefixtures("endless")
def test_a_segment_over_poisoned_kv_is_drawn_from_a_rebuilt_prompt(s2pro: Path) -> None:
    history = (spoken("Before.", 30, 1),)
    spoken_twice = []
    for poison in (False, True):
        driver = Driver(core := tiny_core(s2pro))
        core.handle(c.Prefetch(Conversation("a", history), voice()))
        driver.run()
        if poison:
            poisoned(core, "a")
        heard = driver.open(Conversation("a", history), SENTENCE, voice=voice(), frames=3)
        driver.run()
        assert bool(heard.retries) is poison
        spoken_twice.append(heard)
    clean, retried = spoken_twice
    assert (clean.codes == retried.codes).all(), "greedy draws from the same prompt"
    assert (clean.samples == retried.samples).all(), "the codec has not heard of the first attempt"


@pytest.mark.parametrize("victim", [0, 1, 2])
@pytest.mark.usefixtures("endless")
def test_nan_in_one_row_changes_nothing_in_the_others(s2pro: Path, victim: int) -> None:
    spoken_codes = []
    for poison in (False, True):
        driver = Driver(core := tiny_core(s2pro))
        lengths = [40, 5, 90]  # the shorter rows' tables are filled up
        streams = [
            driver.open(Conversation(str(i), (spoken("Before.", n, i),)), SENTENCE, frames=4)
            for i, n in enumerate(lengths)
        ]
        driver.run()
        if poison:
            poisoned(core, str(victim))
        for heard in streams:
            core.handle(c.Allow(heard.key, 8))
        driver.run()
        assert any(end.cut == "nan" for end in streams[victim].ends) is poison
        spoken_codes.append([heard.codes for i, heard in enumerate(streams) if i != victim])
    assert all((a == b).all() for a, b in zip(*spoken_codes, strict=True))


@pytest.mark.usefixtures("endless")
def test_the_next_owner_of_poisoned_pages_does_not_notice(s2pro: Path) -> None:
    codes = []
    for poison in (False, True):
        driver = Driver(core := tiny_core(s2pro, kv_positions=384))
        core.handle(c.Prefetch(Conversation("a", (spoken("Before.", 150, 1),)), voice()))
        driver.run()
        if poison:
            poisoned(core, "a")  # never heard of: it is evicted before it speaks
        histories = {
            "b": spoken("Long.", 75, 2),
            "c": spoken("Less long.", 45, 3),
        }  # read together, to the longer one's end
        both = [driver.open(Conversation(name, (said,)), SENTENCE, frames=3) for name, said in histories.items()]
        driver.run()
        assert core.cache.counters.evicted == 1 and not both[0].retries and not both[1].retries
        codes.append(np.stack([heard.codes for heard in both]))
    assert (codes[0] == codes[1]).all()


# -- input that cannot be spoken ----------------------------------------------------------------------------------------------------------


def bad_codes(value: int, codebooks: int = 10) -> np.ndarray:
    codes = random_codes(5, 0)[:codebooks].copy()
    codes[-1, 3] = value
    return codes


@pytest.mark.parametrize(
    "history",
    [
        SpokenSegment("Said.", bad_codes(30_000)),
        SpokenSegment("Said.", bad_codes(-1)),
        SpokenSegment("Said.", bad_codes(1, codebooks=9)),
        SpokenSegment("Said.", np.zeros(10, np.int16)),
        SpokenSegment("Half a \ud83d pair.", random_codes(5, 0)),
    ],
    ids=["beyond", "negative", "codebooks", "shape", "text"],
)
def test_a_history_that_cannot_be_fails_its_own_stream_alone(s2pro: Path, history: SpokenSegment) -> None:
    driver = Driver(core := tiny_core(s2pro, max_streams=2))
    fine = driver.open(Conversation("fine"), "Hello.", frames=3)
    for _ in range(3):
        bad = driver.open(Conversation("bad", (history,)), "Hello.", frames=3)
        assert core.has_work()
        driver.step()
        assert error_of(bad).code == "bad_input"
    core.handle(c.Prefetch(Conversation("bad", (history,)), Voice("none")))
    driver.run()
    assert len(fine.frames) == 3
    driver.cancel(fine)
    assert_nothing_leaked(core)


def test_a_voice_that_cannot_be_fails_its_own_stream_alone(s2pro: Path) -> None:
    driver = Driver(core := tiny_core(s2pro))
    bad = driver.open(Conversation("a"), "Hello.", voice=Voice("bad", (Reference("Text.", bad_codes(30_000)),)))
    fine = driver.open(Conversation("b"), "Hello.", frames=3)
    driver.run()
    assert error_of(bad).code == "bad_input" and len(fine.frames) == 3
    driver.cancel(fine)
    assert_nothing_leaked(core)


def test_text_that_is_no_unicode_fails_its_own_stream_alone(s2pro: Path) -> None:
    driver = Driver(core := tiny_core(s2pro))
    bad = driver.open(Conversation("a"), "Half a \ud83d pair.")
    fine = driver.open(Conversation("b"), "Hello.", frames=3)
    driver.run()
    assert error_of(bad).code == "bad_input" and len(fine.frames) == 3
    driver.cancel(fine)
    assert_nothing_leaked(core)

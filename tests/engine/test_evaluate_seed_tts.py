"""Lists of the Seed-TTS benchmark: what is refused, what is measured, and that an interruption costs one batch at most."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

from engine.api import Codes, Samples, SamplingParams
from engine.evaluate import seed_tts
from engine.evaluate.external import load_recognizer, load_speaker_model
from engine.evaluate.seed_tts import Result, SeedTtsError, Utterance, measure, read_list
from engine.evaluate.speaking import Mouth, Request, Setting, Spoken

RATE = 16000
MINI = Path(__file__).parents[2] / "engine" / "mini"
RUN = {"checkpoint": "scripted"}


def tone(hz: float, seconds: float, rate: int = RATE) -> Samples:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Two lines, one of them with a ground truth; their recordings lie beside the list."""
    for name, hz, rate in (("low", 110, RATE), ("high", 330, 44100), ("true", 333, RATE)):
        soundfile.write(tmp_path / f"{name}.wav", tone(hz, 1.0, rate), rate)
    path = tmp_path / "meta.lst"
    path.write_text(
        "low-1|A low voice.|low.wav|Nobody saw the fox.\n"
        "high-1|A high voice.|high.wav|Two cats, three dogs.|true.wav\n",
        encoding="utf-8",
    )
    return path


class ScriptedMouth:
    """Clones by frequency: codes are the reference's pitch, and speech is a tone of it. Unrealistic: it never fails, unless told to."""

    sample_rate = RATE

    def __init__(self, fails: Sequence[str] = (), dies_at: int | None = None) -> None:
        self.fails = fails
        self.dies_at = dies_at
        self.asked: list[str] = []
        self.encoded = 0

    def encode(self, samples: Samples, sample_rate: int) -> Codes:
        self.encoded += 1
        spectrum = np.abs(np.fft.rfft(samples))
        return np.full((2, 3), round(spectrum.argmax() * sample_rate / len(samples)), np.int16)

    def speak(self, requests: Sequence[Request], what: str) -> list[Spoken]:
        if self.dies_at is not None and len(self.asked) >= self.dies_at:
            raise RuntimeError("lost")
        made = []
        for request in requests:
            (text,) = request.segments
            self.asked.append(text)
            (reference,) = request.voice.references
            if text in self.fails:
                made.append(Spoken(np.zeros(0, np.float32), reference.codes[:, :0], (0,), "too long"))
            else:
                made.append(Spoken(tone(float(reference.codes[0, 0]), 0.5), reference.codes, (3,)))
        return made


class Pitch:
    """As a recogniser it hears a word for each of the pitches; as a speaker model its vectors turn with the pitch."""

    name = "pitch"

    def transcribe(self, clips: Sequence[Samples], sample_rate: int, languages: Sequence[str]) -> list[str]:
        assert len(clips) == len(languages)
        return ["nobody saw a… fox" if hz < 200 else "two cats three dogs" for hz in map(self._hz(sample_rate), clips)]

    def embed(self, clips: Sequence[Samples], sample_rate: int) -> npt.NDArray[np.float32]:
        angles = np.array([self._hz(sample_rate)(clip) / 1000 for clip in clips])
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    @staticmethod
    def _hz(rate: int):  # type: ignore[no-untyped-def]
        return lambda clip: np.abs(np.fft.rfft(clip)).argmax() * rate / max(1, len(clip))


def judged(listed: Path, mouth: ScriptedMouth | None = None, **options: object) -> list[Result]:
    chosen = {"run": RUN, "work": None, "progress": io.StringIO(), **options}
    return measure(read_list(listed), mouth or ScriptedMouth(), Pitch(), Pitch(), **chosen)  # type: ignore[arg-type]


def test_a_list_is_read_with_paths_beside_it(listed: Path) -> None:
    folder = listed.parent
    assert read_list(listed) == [
        Utterance(1, "low-1", "A low voice.", folder / "low.wav", "Nobody saw the fox."),
        Utterance(2, "high-1", "A high voice.", folder / "high.wav", "Two cats, three dogs.", folder / "true.wav"),
    ]


def test_empty_lines_and_a_byte_order_mark_are_skipped(listed: Path) -> None:
    listed.write_text("\ufeff\n" + listed.read_text("utf-8") + "\n\n", encoding="utf-8")
    assert [utterance.line for utterance in read_list(listed)] == [2, 3]


def test_only_a_line_feed_ends_a_line(listed: Path) -> None:
    listed.write_bytes("low-1|t|low.wav|One\u2028two\x85three.\r\n".encode())
    assert [utterance.text for utterance in read_list(listed)] == ["One\u2028two\x85three."]


def test_a_ground_truth_that_is_not_there_counts_as_not_given(listed: Path) -> None:
    (listed.parent / "true.wav").unlink()
    assert read_list(listed)[1].truth is None


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("x|text|low.wav", "3 fields between |, not 4 or 5"),
        ("x|t|low.wav|say|true.wav|more", "6 fields between |, not 4 or 5"),
        ("|t|low.wav|say", "the id '' is empty"),
        ("../x|t|low.wav|say", "the id '../x' is empty or holds more than letters"),
        ("..|t|low.wav|say", "the id '..' is empty or holds more than letters"),
        ("x| |low.wav|say", "the transcript is empty"),
        ("x|t||say", "the file of the reference is empty"),
        ("x|t|low.wav|", "the text is empty"),
        ("x|t|none.wav|say", "there is no file"),
        ("low-1|t|low.wav|say", "the id low-1 is that of line 1 too"),
    ],
)
def test_a_malformed_line_is_named_with_what_is_wrong(listed: Path, line: str, what: str) -> None:
    listed.write_text(listed.read_text("utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(SeedTtsError) as refused:
        read_list(listed)
    assert str(refused.value).startswith(f"{listed}:3: ") and what in str(refused.value)


def test_of_many_malformed_lines_the_first_are_shown_and_the_rest_counted(listed: Path) -> None:
    listed.write_text("one field\n" * 9, encoding="utf-8")
    with pytest.raises(SeedTtsError) as refused:
        read_list(listed)
    shown = str(refused.value).splitlines()
    assert [line.split(": ")[0] for line in shown[:-1]] == [f"{listed}:{number}" for number in range(1, 6)]
    assert shown[-1] == "and 4 more lines like these"


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00"])
def test_a_list_that_is_empty_or_no_text_is_refused(listed: Path, content: bytes) -> None:
    listed.write_bytes(content)
    with pytest.raises(SeedTtsError, match=r"is empty|cannot read the list"):
        read_list(listed)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SeedTtsError, match="cannot read the list"):
        read_list(tmp_path / "none.lst")


def test_words_and_voices_are_compared_with_text_and_reference(listed: Path) -> None:
    low, high = judged(listed)
    assert (low.edits, low.words, low.truth_edits, low.truth_similarity) == (1, 4, None, None)
    assert (high.edits, high.words, high.truth_edits) == (0, 4, 0)
    assert low.similarity == high.similarity == pytest.approx(1.0)
    assert high.truth_similarity == pytest.approx(np.cos(0.003), abs=1e-4)
    assert low.seconds == 0.5 and low.failed is None


def test_without_a_speaker_model_there_is_no_figure_of_likeness(listed: Path) -> None:
    results = measure(read_list(listed), ScriptedMouth(), Pitch(), None, run=RUN, work=None, progress=io.StringIO())
    assert [result.similarity for result in results] == [None, None]
    assert not [row for row in seed_tts.rows(results) if "similarity" in row.key]


def test_what_was_not_spoken_counts_as_all_words_missed(listed: Path) -> None:
    _, high = judged(listed, ScriptedMouth(fails=["Two cats, three dogs."]))
    assert (high.heard, high.edits, high.words) == ("", 4, 4)
    assert high.similarity is None and high.failed == "too long"


def test_the_rows_pool_words_and_average_utterances(listed: Path) -> None:
    with listed.open("a", encoding="utf-8") as file:
        file.write("high-2|A high voice.|high.wav|Two cats.\n")
    figures = {row.key: row for row in seed_tts.rows(judged(listed))}
    assert figures["seed_tts_word_error_rate"].value == pytest.approx(3 / 10)
    assert figures["seed_tts_word_error_rate"].teacher == 0.0
    assert figures["seed_tts_mean_word_error_rate"].value == pytest.approx((1 / 4 + 0 + 2 / 2) / 3)
    assert figures["seed_tts_speaker_similarity"].value == pytest.approx(1.0, abs=1e-4)
    assert figures["seed_tts_failed"].value == 0.0
    assert {row.count for row in figures.values()} == {3}


def test_a_reference_used_twice_in_a_row_is_encoded_once(listed: Path) -> None:
    with listed.open("a", encoding="utf-8") as file:
        file.write("high-2|A high voice.|high.wav|Two cats.\n")
    mouth = ScriptedMouth()
    judged(listed, mouth)
    assert mouth.encoded == 2


def test_channels_are_mixed(listed: Path) -> None:
    path = listed.parent / "low.wav"
    soundfile.write(path, np.stack([tone(110, 1.0), np.zeros(RATE, np.float32)], 1), RATE)
    assert judged(listed)[0].similarity == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("content", [b"no audio", b""])
def test_a_recording_that_cannot_be_read_is_named_with_its_line(listed: Path, content: bytes) -> None:
    (listed.parent / "high.wav").write_bytes(content)
    with pytest.raises(SeedTtsError, match=r"line 2: cannot read .*high\.wav"):
        judged(listed)


def test_a_recording_of_nothing_is_refused(listed: Path) -> None:
    soundfile.write(listed.parent / "low.wav", np.zeros(0, np.float32), RATE)
    with pytest.raises(SeedTtsError, match=r"line 1: .*low\.wav holds no audio"):
        judged(listed)


def test_progress_counts_utterances(listed: Path) -> None:
    shown = io.StringIO()
    judged(listed, progress=shown)
    assert shown.getvalue() == "seed-tts: 2 of 2, word error rate 0.1250\n"


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seed_tts, "BATCH", 1)


@pytest.mark.usefixtures("one_by_one")
def test_a_run_that_was_interrupted_goes_on_where_it_stopped(listed: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(RuntimeError, match="lost"):
        judged(listed, ScriptedMouth(dies_at=1), work=work)
    mouth, shown = ScriptedMouth(), io.StringIO()
    assert judged(listed, mouth, work=work, progress=shown) == judged(listed)
    assert mouth.asked == ["Two cats, three dogs."]
    assert "1 of 2 utterances are known" in shown.getvalue()


def test_every_torn_end_of_the_results_is_taken_up_again(listed: Path, tmp_path: Path) -> None:
    whole = judged(listed, work=tmp_path / "whole")
    assert not whole[0].heard.isascii()
    content = (tmp_path / "whole" / "seed_tts.jsonl").read_bytes()
    for size in range(0, len(content), 17):
        work = tmp_path / f"torn-{size}"
        work.mkdir()
        (work / "seed_tts.jsonl").write_bytes(content[:size])
        assert judged(listed, work=work) == whole
        assert (work / "seed_tts.jsonl").read_bytes() == content


def test_a_finished_run_is_not_spoken_again(listed: Path, tmp_path: Path) -> None:
    judged(listed, work=tmp_path / "work")
    mouth = ScriptedMouth()
    judged(listed, mouth, work=tmp_path / "work")
    assert mouth.asked == [] and mouth.encoded == 0


def test_waves_are_kept_for_ears(listed: Path, tmp_path: Path) -> None:
    judged(listed, work=tmp_path / "work")
    samples, rate = soundfile.read(tmp_path / "work" / "waves" / "low-1.wav")
    assert rate == RATE and np.allclose(samples, tone(110, 0.5), atol=1e-3)


def test_another_runs_results_are_refused_with_what_differs(listed: Path, tmp_path: Path) -> None:
    judged(listed, work=tmp_path / "work")
    with pytest.raises(SeedTtsError, match=r"another run \(checkpoint 'scripted', now 'other'\); name another folder"):
        judged(listed, work=tmp_path / "work", run={"checkpoint": "other"})
    listed.write_text(listed.read_text("utf-8").replace("fox", "ox"), encoding="utf-8")
    with pytest.raises(SeedTtsError, match=r"another run \(list '"):
        judged(listed, work=tmp_path / "work")


@pytest.mark.parametrize("content", ["no json\n", "no line", "[]\n{}\n", '"text"\n', '{"a": "b"}\n{"id": "x"}\n'])
def test_a_file_of_something_else_is_left_alone(listed: Path, tmp_path: Path, content: str) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "seed_tts.jsonl").write_text(content)
    with pytest.raises(SeedTtsError, match="name another folder"):
        judged(listed, work=work)
    assert (work / "seed_tts.jsonl").read_text() == content


def test_results_are_one_json_object_a_line_after_the_runs_own(listed: Path, tmp_path: Path) -> None:
    judged(listed, work=tmp_path / "work")
    lines = [json.loads(line) for line in (tmp_path / "work" / "seed_tts.jsonl").read_text("utf-8").splitlines()]
    assert lines[0].keys() == {"checkpoint", "recognizer", "speaker_model", "list"}
    assert [line["id"] for line in lines[1:]] == ["low-1", "high-1"]


def test_the_mini_goes_through_the_whole_list_with_models_from_outside(listed: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the optional extra `evaluate`")
    from tests.engine.outside_models import save_ctc, save_xvector

    torch.set_num_threads(1)
    hears = load_recognizer(str(save_ctc(tmp_path / "ctc")), "cpu")
    embeds = load_speaker_model(str(save_xvector(tmp_path / "xvector")), "cpu")
    setting = Setting(MINI, "mini", "cpu", SamplingParams(max_frames=40), workers=0, rows=2)
    with Mouth(setting) as mouth:
        results = measure(
            read_list(listed), mouth, hears, embeds, run=RUN, work=tmp_path / "work", progress=io.StringIO()
        )
    assert all(result.seconds > 0 and result.heard and result.similarity is not None for result in results)
    assert results[1].truth_edits is not None and results[1].truth_similarity is not None
    assert len(list((tmp_path / "work" / "waves").iterdir())) == 2
    assert {"seed_tts_word_error_rate", "seed_tts_speaker_similarity"} <= {row.key for row in seed_tts.rows(results)}

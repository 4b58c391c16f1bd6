"""The speaker network at a size that a CPU trains in seconds, and what must hold whatever its weights are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.train.speaker_net import (
    EMBEDDING,
    SpeakerNet,
    SpeakerPlan,
    Trainer,
    colour,
    load_speaker_net,
    train_speaker_net,
)
from engine.train.styles import SPEAKERS
from tests.engine.evaluating import TEXTS, silence, teacher, tone

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("speaker")
    plan = SpeakerPlan(out, 1.5, voices=6, voice_s=4.0, parts=1, batch_voices=4, workers=1, dim=16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    path = train_speaker_net(plan, CPU)
    torch.set_num_threads(threads)
    return path


def untrained() -> SpeakerNet:
    torch.manual_seed(1)
    return SpeakerNet(16).eval()


def test_a_trained_network_is_stored_loads_and_notes_its_curve(trained: Path) -> None:
    net = load_speaker_net(trained, CPU)
    assert net.voices([teacher().say(TEXTS[0])]).shape == (1, EMBEDDING)
    assert '"builtin_right"' in (trained.parent / "speaker.jsonl").read_text()


def test_takes_of_one_voice_cost_less_together_than_mixed_up() -> None:
    plan = SpeakerPlan(Path(), 1.0, dim=16)
    trainer = Trainer(plan, torch.zeros(1, 9, dtype=torch.int16), torch.zeros(8, 1, 1, 9, dtype=torch.int16))
    voices = F.normalize(torch.randn(5, 1, EMBEDDING, generator=torch.Generator().manual_seed(1)), dim=-1)
    together = voices.expand(-1, 4, -1)
    mixed = together.transpose(0, 1).reshape(5, 4, EMBEDDING)
    assert trainer.together(together) < 0.1 < trainer.together(mixed)


def test_the_full_size_takes_at_most_800_kilobytes() -> None:
    assert sum(2 * value.numel() for value in SpeakerNet().state_dict().values()) < 800_000


def test_vectors_have_length_one_and_do_not_depend_on_level_or_on_the_clips_beside() -> None:
    net, clips = untrained(), [teacher().say(text, SPEAKERS[i]) for i, text in enumerate(TEXTS)]
    together = net.voices(clips)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(together[2], net.voices([clips[2]])[0])
    quieter = net.voices([np.float32(0.25) * clips[2]])[0]
    assert quieter @ together[2] > 0.995 > max(together[i] @ together[2] for i in (0, 1, 3))


def test_pauses_hardly_change_a_vector() -> None:
    net, one, other = untrained(), teacher().say(TEXTS[0]), teacher().say(TEXTS[1])
    paused = np.concatenate([one, silence(1.5), other])
    a, b = net.voices([np.concatenate([one, other]), paused])
    assert a @ b > 0.999


@pytest.mark.parametrize("clip", [silence(0.0), silence(0.5), tone(100, 0.01)], ids=["empty", "silent", "an instant"])
def test_clips_without_speech_give_a_vector_all_the_same(clip: np.ndarray) -> None:
    assert np.isfinite(untrained().voices([clip])).all()


def test_colouring_differs_from_clip_to_clip_and_keeps_the_floor() -> None:
    mel = untrained().features(torch.from_numpy(np.stack([teacher().say(TEXTS[0])[:30000]] * 3)))[0]
    coloured = colour(mel, torch.Generator().manual_seed(2))
    assert coloured.min() >= -3.0
    assert (coloured[0] - coloured[1]).abs().mean() > 0.02
    assert (coloured - mel).abs().mean() < 0.5

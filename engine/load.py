"""From a folder on disk to a core that is warm: everything a first frame would otherwise wait for happens here."""

from __future__ import annotations

from pathlib import Path

import torch

from engine import commands as c
from engine.api import Conversation, EngineLimits, Frame, ModelInfo, SamplingParams, Voice
from engine.checkpoint import load_dual_ar
from engine.codec_weights import load_codec
from engine.config import read_json
from engine.core import EngineCore
from engine.prompt import PromptBuilder
from engine.runner import Runner
from engine.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_HISTORY_S = 40.0  # what S2-Pro keeps well: 860 frames, near where long turns are known to drift (s2pro.md 3.3)
WARM_UP_FRAMES = 4  # the first allocates, the second is the first decode step, two more for good measure


def load_core(
    folder: Path,
    name: str,
    device: str,
    dtype: str,
    limits: EngineLimits,
    attribution: str | None,
    *,
    guarded: bool = True,
) -> EngineCore:
    """Load a checkpoint folder and speak a few frames with it.

    device: of torch, or "auto": a GPU where there is one. dtype: of the AR stacks, a key of DTYPES, or "auto": bfloat16 on a GPU, float32
    elsewhere; the codec stays float32. Raises ConfigError, CheckpointError or
    CodecWeightsError, which name the file at fault.
    """
    if limits.threads is not None:
        torch.set_num_threads(limits.threads)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    model = load_dual_ar(folder, device, DTYPES[dtype])
    codec = load_codec(folder, device)
    model.prepare_serving(residual_entries=codec.config.codebook_size)
    prompts = PromptBuilder(Tokenizer(folder), model.config)
    info = ModelInfo(
        name=name,
        sample_rate=codec.config.sample_rate,
        frame_samples=codec.config.frame_samples,
        codebooks=model.config.num_codebooks,
        max_history_s=float(read_json(folder / "config.json").get("max_history_s", DEFAULT_HISTORY_S)),
        attribution=attribution,
        device=torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else device,
        dtype=dtype,
    )
    core = EngineCore(Runner(model, codec, limits), prompts, info, limits, guarded=guarded)
    warm_up(core)
    return core


def warm_up(core: EngineCore) -> None:
    """Speak into the void until a frame has come out, then forget it."""
    conversation = Conversation("warm-up")
    core.handle(c.Open(0, conversation, Voice("warm-up"), SamplingParams(max_frames=WARM_UP_FRAMES), 0))
    core.handle(c.Push(0, "Hello."))
    core.handle(c.Finish(0))
    core.handle(c.Allow(0, WARM_UP_FRAMES))
    heard = 0
    while core.has_work():
        heard += sum(isinstance(event, Frame) for _, event in core.step().events)
    core.handle(c.Cancel(0))
    core.handle(c.Forget(conversation.id))

"""From a folder on disk to a core that is warm: everything a first frame would otherwise wait for happens here."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from engine import commands as c
from engine.api import Conversation, EngineLimits, ModelInfo, SamplingParams, SpokenSegment, SynthesisFailed, Voice
from engine.attention import causal
from engine.checkpoint import load_dual_ar
from engine.codec import Codec
from engine.codec_identity import codec_id
from engine.codec_process import CodecProcess
from engine.codec_weights import load_codec
from engine.config import read_json
from engine.core import EngineCore
from engine.declared import declared_numbers_in_words, declared_scripts
from engine.decoding import FrameDecoder
from engine.fused import compiled
from engine.heads import ChosenHeads
from engine.model import DualAR
from engine.prompt import PromptBuilder
from engine.quantize import check
from engine.random_weights import ForcedEnds, RandomWeights
from engine.roof import roof_s
from engine.runner import Runner
from engine.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
GRAPHS_SINCE = (8, 0)  # compute capability of a GPU that knows bfloat16
DEFAULT_HISTORY_S = 40.0  # what S2-Pro keeps well: 860 frames, near where long turns are known to drift (s2pro.md 3.3)
PASTS = (150, 300, 600, 1200)  # frames, prefilled at the start on a GPU
LEAST_ROOM = 100  # positions for text and what is said behind such a past
JOB_FRAMES = 72  # of a first job: a whole slice on a GPU and part of one
WARM_UP_FRAMES = 4  # the first allocates, the second is the first decode step, two more for good measure


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A checkpoint folder, ready to serve. Nothing in it changes any more, so several cores may share it."""

    model: DualAR
    codec: Codec  # on the CPU; who streams has copies of the weights where the model is
    prompts: PromptBuilder
    info: ModelInfo
    heads: ChosenHeads | None = None  # that follow the text
    random: RandomWeights | None = None  # what the weights are, where they are random


def load_core(
    folder: Path,
    name: str,
    device: str,
    dtype: str,
    limits: EngineLimits,
    attribution: str | None,
    *,
    guarded: bool = True,
    quantize: str | None = None,
) -> EngineCore:
    """Load a checkpoint folder and speak a few frames with it. Close the core.

    device: of torch, or "auto": a GPU where there is one. dtype: of the AR stacks, a key of DTYPES, or "auto": bfloat16 on a GPU, float32
    elsewhere; the codec stays float32. quantize: a format of `engine.quantize` for the slow stack's matrices, or None. Raises ValueError
    for another dtype or a format that cannot be had, SynthesisFailed where `limits` leave no room to speak, and ConfigError,
    CheckpointError or CodecWeightsError, which name the file at fault.
    """
    device, threads = _device(device), limits.threads or default_threads()
    torch.set_num_threads(threads)
    beside = threads_beside(cores(), threads) if device == "cpu" else 0
    with contextlib.ExitStack() as on_failure:
        decoder: CodecProcess | None = None
        if beside:
            decoder = CodecProcess(folder, limits.max_streams, beside)
            on_failure.callback(decoder.close)
        loaded = load_model(folder, name, device, dtype, attribution, quantize=quantize)
        if decoder is not None:
            decoder.wait()
        core = core_of(loaded, limits, guarded=guarded, decoder=decoder)
        warm_up(core)
        on_failure.pop_all()
    return core


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def default_threads() -> int:
    """CPU threads of the engine: half the machine, at most four.

    The server and its encoders need the rest. Threads of one product wait for each other spinning: two of them beside another busy
    process on two cores took 300 ms for a step that one takes 30 ms for; beyond four, steps of a few rows are too small to share out.
    """
    return max(1, min(4, cores() // 2))


def threads_beside(cores: int, threads: int) -> int:
    """How many threads a codec's own process has beside an engine with `threads`; 0: it decodes inline. One core is left to the server.

    On two cores there is none to leave: the codec works only while a frame is computed, a third of the time at one stream.
    """
    return max(min(threads, cores - threads - 1), 1 if cores > threads else 0)


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(
    folder: Path,
    name: str,
    device: str,
    dtype: str,
    attribution: str | None,
    *,
    fused: bool | None = None,
    quantize: str | None = None,
    kernels: bool | None = None,
) -> Loaded:
    """The part of `load_core` that reads files. fused: a step's blocks are compiled (`engine.fused`); None: on a GPU that is `_quick`.

    kernels: few rows have kernels of our own, see DualAR.prepare_serving; None: where blocks are compiled, given a GPU and Triton.
    """
    device = _device(device)
    where = torch.device(device)
    if where.type == "cuda":
        if where.index is not None:
            torch.cuda.set_device(where)  # captures and kernels take the current one
        # It plans anew for each new length of a prompt, some 30 ms on the host.
        torch.backends.cuda.enable_cudnn_sdp(False)
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of auto, {', '.join(DTYPES)}")
    check(quantize, torch.device(device))
    model, packed = _model(folder, torch.device(device), DTYPES[dtype], quantize)
    codec = _codec(folder, where)
    fuse = compiled if fused or (fused is None and _quick(model.device)) else None
    if kernels is None:
        kernels = fuse is not None and model.device.type == "cuda" and find_spec("triton") is not None
    model.prepare_serving(codec.config.codebook_size, packed, fuse, kernels)
    info = ModelInfo(
        name=name,
        sample_rate=codec.config.sample_rate,
        frame_samples=codec.config.frame_samples,
        codebooks=model.config.num_codebooks,
        max_history_s=float(read_json(folder / "config.json").get("max_history_s", DEFAULT_HISTORY_S)),
        attribution=attribution,
        device=torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else device,
        dtype=dtype if quantize is None else f"{dtype}, slow stack {quantize}",
        codec_id=codec_id(folder),
        scripts=declared_scripts(folder),
        numbers_in_words=declared_numbers_in_words(folder),
        roof_s=roof_s(model, codec.config.codebook_size),
    )
    heads = ChosenHeads.load(folder, model.config.slow)
    return Loaded(model, codec, PromptBuilder(Tokenizer(folder), model.config), info, heads, RandomWeights.of(folder))


def _codec(folder: Path, device: torch.device) -> Codec:
    """The folder's codec, on the CPU: a GPU would hold its weights, 1.5 GB of S2 Pro's, twice."""
    if RandomWeights.of(folder) is None:
        return load_codec(folder, "cpu")
    codec = load_codec(folder, device).cpu()  # another device has other random numbers
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what it took is free in large pieces, and shall not be cut into small ones
    return codec


def _quick(device: torch.device) -> bool:
    """Whether steps are graphs of compiled blocks and kernels of our own where nobody says otherwise."""
    has_triton = device.type == "cuda" and find_spec("triton") is not None
    return has_triton and torch.cuda.get_device_capability(device) >= GRAPHS_SINCE


def _model(folder: Path, device: torch.device, dtype: torch.dtype, quantize: str | None) -> tuple[DualAR, bool]:
    """A model, and whether to serve it packed.

    Weights that came from 8 bits lose nothing by staying there, and a CPU's step is bound by reading them. That is int8 for both stacks.
    """
    packable = device.type == "cpu" and dtype == torch.float32 and quantize in (None, "int8")
    if packable:
        model = load_dual_ar(folder, device, dtype)
        if model.stored_8_bit or quantize is None:
            return model, model.stored_8_bit
    return load_dual_ar(folder, device, dtype, quantize), False


@torch.inference_mode()
def _compile_products(model: DualAR) -> None:
    """Compile what products of any number of rows will run, where they will not always run as graphs, whose captures compile them."""
    if find_spec("triton") is None:
        return
    from engine.products_triton import row_counts

    for rows in row_counts():
        x = torch.zeros(1, rows, model.config.slow.dim, device=model.device, dtype=model.dtype)
        model.slow(x, torch.arange(rows, device=model.device)[None], causal)


def core_of(
    loaded: Loaded,
    limits: EngineLimits,
    *,
    guarded: bool = True,
    decoder: FrameDecoder | None = None,
    graphs: bool | None = None,
) -> EngineCore:
    """A core with caches and rows of its own, not warm. decoder: instead of one inside it. graphs: see Runner; None: on a GPU that is
    `_quick`, where they can be had."""
    heads, device = loaded.heads.heads if loaded.heads is not None else (), loaded.model.device
    if graphs is None:
        width = loaded.model.config.slow.head_dim  # of which the attention's kernel takes powers of two
        graphs = _quick(device) and width >= 16 and width.bit_count() == 1
    if device.type == "cuda" and (heads or not graphs):
        _compile_products(loaded.model)
    ends = ForcedEnds(loaded.random.seed, loaded.info.frame_s) if loaded.random is not None else None
    runner = Runner(loaded.model, loaded.codec, limits, decoder, heads, ends, graphs)
    # Noise is no speech, so nobody watches for it where nothing else can come.
    return EngineCore(runner, loaded.prompts, loaded.info, limits, guarded=guarded and ends is None)


def warm_up(core: EngineCore) -> None:
    """Speak a few frames into the void and forget them, and make steps of all sizes. Raises SynthesisFailed where there is no room.

    What they sound like does not matter here: whether the engine can speak is asked by whoever serves it.
    """
    _speak(core, SamplingParams(max_frames=WARM_UP_FRAMES), past=0)
    if core.info.device != "cpu":
        _first_uses(core)
    core.rehearse()


def _first_uses(core: EngineCore) -> None:
    """A GPU loads the code of a kernel when it is first used, and libraries choose by size: none of it while somebody listens."""
    entries = np.zeros((core.info.codebooks, JOB_FRAMES), np.int16)
    for past in PASTS:
        if past + LEAST_ROOM < core.most_positions:
            _speak(core, SamplingParams(max_frames=1), past)
    _speak(core, SamplingParams(max_frames=2, top_k=100, repetition_penalty=1.1), past=0)
    core.handle(c.Decode(0, entries))
    samples = np.zeros(JOB_FRAMES * core.info.frame_samples, np.float32)
    core.handle(c.Encode(1, core.info.sample_rate, samples.size))
    core.handle(c.Recording(1, samples))
    _run(core)


def _speak(core: EngineCore, params: SamplingParams, past: int) -> None:
    """past: frames said before."""
    said = (SpokenSegment("Hello.", np.zeros((core.info.codebooks, past), np.int16)),) if past else ()
    conversation = Conversation("warm-up", said)
    core.handle(c.Open(0, conversation, Voice("warm-up"), params, 0))
    core.handle(c.Push(0, "Hello."))
    core.handle(c.Finish(0))
    core.handle(c.Allow(0, params.max_frames))
    _run(core)
    core.handle(c.Forget(conversation.id))


def _run(core: EngineCore) -> None:
    while core.has_work():
        for error in [event.error for _, event in core.step().events if isinstance(event, c.Ended)]:
            if isinstance(error, SynthesisFailed) and error.code != "degenerate":
                raise error

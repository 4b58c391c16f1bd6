"""The checks of `engine.verify` that concern tokenizer, prompt, slow and fast stack, and sampling.

Greedy and sampled runs take the path that serves: several rows at once over paged keys and values, each leaving when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from engine.api import Reference, SamplingParams, Voice
from engine.attention import FrameKV, causal
from engine.checkpoint import load_dual_ar
from engine.config import Json, ModelConfig, read_json
from engine.kv import PAGE, CachedSequence, PagedAttention, PagePool
from engine.model import Draw, DualAR, Hidden, rope_rows
from engine.prompt import PromptBuilder
from engine.sampling import (
    RAS_TEMPERATURE,
    RAS_TOP_P,
    RAS_WINDOW,
    Noise,
    Sampler,
    candidates,
    pick,
    policy,
    probabilities,
)
from engine.tokenizer import Tokenizer
from engine.verify_report import AR_TOLERANCE, BF16_MAX, BF16_RMS, PROBABILITY_TOLERANCE, Report

GREEDY = SamplingParams(top_k=1)


def check(folder: Path, scenarios: Json, report: Report) -> None:
    """Everything but the codec."""
    tokenizer = Tokenizer(folder)
    model = load_dual_ar(folder, report.device)
    model.prepare_serving()  # with the whole fast head, as the reference has it
    _ids(folder, tokenizer, model.config, report)
    _prompts(PromptBuilder(tokenizer, model.config), scenarios, report)
    for name in scenarios:
        _prefill(model, name, report)
        _teacher_forced(model, name, report)
    _greedy(model, scenarios, report)
    for name in ("sampled", "sampled_ras"):
        _sampled(model, name, report)
    _filter(report)
    halves = [name for name in scenarios if any(array.startswith(f"{name}_bf16_") for array in report.arrays)]
    if halves:
        model = load_dual_ar(folder, report.device, torch.bfloat16)
        model.prepare_serving()
    for name in halves:
        _teacher_forced(model, name, report, "_bf16")


def _ids(folder: Path, tokenizer: Tokenizer, config: ModelConfig, report: Report) -> None:
    if not (folder / "ids.json").is_file():
        return
    names = ("im_start", "im_end", "voice", "semantic_begin", "semantic_end")
    expected = read_json(folder / "ids.json")
    got = [getattr(tokenizer, name) for name in names] + [config.vocab_size]
    report.equal("token ids", torch.tensor(got), torch.tensor([expected[name] for name in (*names, "vocab_size")]))


def _prompts(builder: PromptBuilder, scenarios: Json, report: Report) -> None:
    """Every batch's prompt; the history of a batch is what the reference generated for those before it."""
    for name, scenario in scenarios.items():
        references = []
        for text, array in zip(scenario["prompt_text"] or [], scenario["references"], strict=True):
            codes = report.expected(array)
            if codes is not None:
                references.append(Reference(text, codes.cpu().numpy().astype(np.int16)))
        pieces = [builder.system(Voice(name, tuple(references)))]
        for index, text in enumerate(scenario["batches"]):
            user = builder.user(text)
            got = torch.from_numpy(np.concatenate((*pieces, user), axis=1))
            report.equal(f"{name}: prompt {index}", got, f"{name}_b{index}_prompt")
            codes = report.expected(f"{name}_b{index}_codes_out")
            if codes is None:
                break
            pieces += [user, builder.spoken(codes.cpu().numpy().astype(np.int16))]


def _prompt(name: str, report: Report) -> Tensor | None:
    """The prompt that a scenario's teacher-forced and prefill arrays belong to, [1, K + 1, T]."""
    index = report.expected(f"{name}_tf_batch")
    prompt = None if index is None else report.expected(f"{name}_b{int(index)}_prompt")
    return None if prompt is None else prompt[None]


def _prefill(model: DualAR, name: str, report: Report) -> None:
    """The whole prompt at once, nothing cached."""
    prompt = _prompt(name, report)
    if prompt is None:
        return
    positions = torch.arange(prompt.shape[2], device=prompt.device)[None]
    x = model.embed(prompt)
    if f"{name}_prefill_embed" in report.arrays:
        report.close(f"{name}: embeddings", x[0], f"{name}_prefill_embed", AR_TOLERANCE)
    if f"{name}_prefill_layer0" in report.arrays:
        first = model.layers[0](x, rope_rows(model.rope[positions]), causal)
        report.close(f"{name}: slow layer 0", first[0], f"{name}_prefill_layer0", AR_TOLERANCE)
    hidden = model.slow(x, positions, causal).head
    report.close(f"{name}: prefill hidden", hidden[0], f"{name}_prefill_hidden", AR_TOLERANCE)


class _Rows:
    """Several prompts in one pool, prefilled one by one and then stepped together."""

    def __init__(self, model: DualAR, prompts: Sequence[Tensor], frames: int) -> None:
        """prompts: [K + 1, T] each. frames: at most this many follow each."""
        config, slow, fast = model.config, model.config.slow, model.config.fast
        pages = sum(-(-(prompt.shape[1] + frames) // PAGE) for prompt in prompts)
        self.model = model
        self.pool = PagePool(slow.n_layer, slow.n_kv_head, slow.head_dim, pages, model.device, model.dtype)
        self.sequences = [CachedSequence(self.pool, config.num_codebooks) for _ in prompts]
        self.frame_kv = FrameKV(fast, len(prompts), config.num_codebooks, model.device, model.dtype)
        parts = [self.step([row], prompt[None]) for row, prompt in enumerate(prompts)]
        self.hidden = Hidden(torch.cat([part.head for part in parts]), torch.cat([part.fast for part in parts]))

    def step(self, rows: Sequence[int], columns: Tensor) -> Hidden:
        """Feed columns [B, K + 1, T] to these rows. Returns the last position's hidden state, [B, D]."""
        sequences = [self.sequences[row] for row in rows]
        for sequence, column in zip(sequences, columns, strict=True):
            sequence.extend(column.cpu().numpy())
        attend = PagedAttention(self.pool, sequences, [columns.shape[2]] * len(rows))
        return self.model.slow(self.model.embed(columns), attend.positions, attend).at(-1)


def _teacher_forced(model: DualAR, name: str, report: Report, precision: str = "") -> None:
    """Given frames fed one by one after the prompt, through the cache; then the fast stack in both of its forms."""
    prompt, frames = _prompt(name, report), report.expected(f"{name}_tf_frames")
    if prompt is None or frames is None:
        return
    rows = _Rows(model, [prompt[0]], frames.shape[1])
    steps = [rows.hidden] + [rows.step([0], frames[None, :, i : i + 1]) for i in range(frames.shape[1])]
    head, fast = torch.cat([step.head for step in steps]), torch.cat([step.fast for step in steps])
    bounds = (BF16_MAX, BF16_RMS) if precision else (AR_TOLERANCE, None)
    label, prefix = f"{name}{precision}", f"{name}{precision}_tf"
    report.close(f"{label}: cached hidden", head.float(), f"{prefix}_hidden", *bounds)
    report.close(f"{label}: cached logits", model.full_logits(head).float(), f"{prefix}_logits", *bounds)
    if not precision:
        report.close(f"{label}: fast input", model.fast_project_in(fast), f"{prefix}_fast_in", *bounds)
    want = report.expected(f"{prefix}_fast_logits", f"{label}: fast logits")
    if want is None:
        return
    codes = frames[1:, : want.shape[0]].T  # [N, K]
    report.close(f"{label}: fast logits", model.fast(fast[: len(codes)], codes).float(), want, *bounds)
    served = _served_fast_logits(model, fast[: len(codes)], codes)
    report.close(f"{label}: fast logits, cached", served.float(), want[:, 1:], *bounds)


def _served_fast_logits(model: DualAR, hidden: Tensor, codes: Tensor) -> Tensor:
    """Logits of codebooks 1..K-1 in the pass-by-pass form, whatever is drawn replaced by `codes` [N, K]."""
    config, seen = model.config, []

    def draw(codebook: int, logits: Tensor) -> Tensor:
        seen.append(logits)
        return codes[:, codebook]

    kv = FrameKV(config.fast, len(codes), config.num_codebooks, model.device, model.dtype)
    model.fast_frame(hidden, codes[:, 0], draw, kv)
    return torch.stack(seen, 1)


class _Run(NamedTuple):
    """What one row emitted."""

    frames: Tensor  # [K + 1, n]: token, then codes
    logits: list[tuple[Tensor, Tensor]]  # of each frame: the head's [n_semantic + 1], the fast head's [K - 1, V]


def _generate(
    model: DualAR,
    prompts: Sequence[Tensor],
    lengths: Sequence[int],
    params: SamplingParams,
    noise: list[Noise] | None = None,
) -> list[_Run]:
    """Run all prompts together, each until `<|im_end|>` or its length. noise: of each frame, instead of the counter-based one."""
    rows = _Rows(model, prompts, max(lengths))
    sampler = Sampler(len(prompts), model.config.num_codebooks, model.device)
    for row in range(len(prompts)):
        sampler.open(row, params, turn=0)
    frames: list[list[Tensor]] = [[] for _ in prompts]
    logits: list[list[tuple[Tensor, Tensor]]] = [[] for _ in prompts]
    active, hidden = list(range(len(prompts))), rows.hidden
    while active:
        draws = sampler.frame(
            torch.tensor(active, device=model.device), noise[len(frames[active[0]])] if noise else None
        )
        head = model.head(hidden.head)
        fast_logits: list[Tensor] = []
        column = draws.semantic(head)
        codes = model.fast_frame(
            hidden.fast, model.code_of(column), _recorded(draws.codebook, fast_logits), rows.frame_kv
        )
        draws.commit(column)
        drawn = torch.cat((model.token_of(column)[:, None], codes), 1)  # [B, K + 1]
        for b, row in enumerate(active):
            frames[row].append(drawn[b])
            logits[row].append((head[b], torch.stack([step[b] for step in fast_logits])))
        going = [
            b for b, row in enumerate(active) if drawn[b, 0] != model.config.im_end and len(frames[row]) < lengths[row]
        ]
        active = [active[b] for b in going]
        if active:
            hidden = rows.step(active, drawn[going, :, None])
    return [_Run(torch.stack(row, 1), seen) for row, seen in zip(frames, logits, strict=True)]


def _recorded(draw: Draw, seen: list[Tensor]) -> Draw:
    def recording(codebook: int, logits: Tensor) -> Tensor:
        seen.append(logits)
        return draw(codebook, logits)

    return recording


def _greedy(model: DualAR, scenarios: Json, report: Report) -> None:
    """All greedy runs as rows of one batch, and the distance of each decision's two best."""
    names = [f"{name}_b{index}" for name, scenario in scenarios.items() for index in range(len(scenario["batches"]))]
    runs = [(name, f"{name}_prompt") for name in names] + [("eos", "plain_b0_prompt")]
    found = []
    for name, prompt_name in runs:
        prompt, greedy = report.expected(prompt_name), report.expected(f"{name}_greedy")
        if prompt is not None and greedy is not None:
            found.append((name, prompt, greedy))
    if not found:
        return
    got = _generate(model, [prompt for _, prompt, _ in found], [greedy.shape[1] for _, _, greedy in found], GREEDY)
    for (name, _, greedy), run in zip(found, got, strict=True):
        report.equal(f"{name}: greedy", run.frames, greedy)
        report.close(
            f"{name}: greedy gaps",
            torch.stack([_gaps(*frame) for frame in run.logits]),
            f"{name}_greedy_gap",
            2 * AR_TOLERANCE,
        )
        codes = report.expected(f"{name}_codes_out")
        if codes is not None:  # the reference leaves out the last column, whatever it is
            report.equal(f"{name}: codes kept", run.frames[1:, :-1], codes)


def _gaps(head: Tensor, fast: Tensor) -> Tensor:
    """Best minus second best of every decision of a frame, [K]."""
    best = torch.cat((head.topk(2).values[None], fast.topk(2).values))
    return best[:, 0] - best[:, 1]


def _sampled(model: DualAR, name: str, report: Report) -> None:
    """A run with the reference's own noise."""
    names = ("params", "frames", "noise_slow", "noise_fast")
    prompt, arrays = report.expected("ref_b0_prompt"), [report.expected(f"{name}_{array}") for array in names]
    if prompt is None or any(array is None for array in arrays):
        return
    given, frames, slow, fast = (array for array in arrays if array is not None)
    temperature, top_p, top_k = given.tolist()
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=int(top_k))
    noise = [_table_noise(model.config, slow[i], fast[i]) for i in range(frames.shape[1])]
    (run,) = _generate(model, [prompt], [frames.shape[1]], params, noise)
    report.equal(f"{name}: frames", run.frames, frames)
    fallback = SamplingParams(temperature=RAS_TEMPERATURE, top_p=RAS_TOP_P, top_k=int(top_k))
    drawn = []
    for i, (head, _) in enumerate(run.logits):
        rule = policy([params, fallback], head.device)
        found = candidates(head[None], rule.limit.shape[1])
        uniform = noise[i](0, found.entries.expand(2, -1, -1))
        drawn.append(model.token_of(pick(found, rule, uniform[:, 0])))
    normal, high = torch.stack(drawn, 1)
    report.equal(f"{name}: normal draws", normal, f"{name}_slow_normal")
    report.equal(f"{name}: fallback draws", high, f"{name}_slow_high")
    # The first token of a run neither is checked nor enters the window.
    token = run.frames[0].tolist()
    window = [token[max(1, i - RAS_WINDOW) : i] for i in range(len(token))]
    report.equal(
        f"{name}: repetitions",
        torch.tensor([t in w for t, w in zip(normal.tolist(), window, strict=True)]),
        f"{name}_ras_hit",
    )


def _table_noise(config: ModelConfig, slow: Tensor, fast: Tensor) -> Noise:
    """The reference's noise of one frame: slow [2, vocabulary], fast [K - 1, V]."""
    semantic = slow[:, config.semantic_begin : config.semantic_end + 1]
    columns = torch.cat((semantic, slow[:, config.im_end : config.im_end + 1]), 1)

    def noise(draw: int, entries: Tensor) -> Tensor:
        table = columns if draw < 2 else fast[draw - 2 :]
        rows = table[: entries.shape[0]].float()[:, None].expand(-1, entries.shape[1], -1)
        return rows.gather(-1, entries)

    return noise


def _filter(report: Report) -> None:
    logits, given = report.expected("probs_logits"), report.expected("probs_params")
    if logits is None or given is None:
        return
    rows = [SamplingParams(temperature=t, top_p=p, top_k=int(k)) for t, p, k in given.tolist()]
    rule = policy(rows, logits.device)
    got = probabilities(candidates(logits, rule.limit.shape[-1]), rule, logits.shape[1])
    report.close("filter: probabilities", got, "probs_out", PROBABILITY_TOLERANCE)

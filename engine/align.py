"""Choose the attention heads that follow the text, and write alignment.json: `python -m engine.align FOLDER`.

Knows what following looks like, so that it needs no recordings, transcripts or labels: the model speaks some sentences by itself, and for
every head of its slow stack one asks how much of its attention lies on a path that moves on through the whole text and never back. Does
not know words or milliseconds; `engine.evaluate.word_times` measures what the choice is good for.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from engine import commands as c
from engine.api import Codes, Conversation, EngineLimits, Frame, SamplingParams, Voice
from engine.attention import grouped_attention
from engine.following import path_of
from engine.heads import ChosenHeads, Head, weights_id
from engine.hub import resolve
from engine.load import DTYPES, Loaded, core_of, load_model

Looks = npt.NDArray[np.float32]  # [heads, frames, tokens]: share of each head's attention on each token of the text

SENTENCES = (
    "The birch canoe slid on the smooth planks.",
    "Could you tell me when the next train to Oxford leaves?",
    "My grandmother taught me how to bake bread when I was seven, and I still do it every week.",
    "Nobody expected the storm to arrive so early in the year.",
    "Please remember to water the plants while we are away.",
    "He speaks three languages, but he never learned to swim.",
    "The orchestra played beautifully despite the terrible acoustics of the old hall.",
    "If it rains tomorrow, we'll stay home and watch a film. Otherwise we could walk to the lake.",
    "Turn left at the traffic lights and keep going for two miles.",
    "A strange noise was coming from behind the wall.",
    "I left my keys on the kitchen table this morning, right beside the blue cup.",
    "That is exactly what I was trying to explain.",
)
MOST_HEADS = 4  # of S2 Pro's 1152; each costs a step another small product
AS_GOOD = 0.9  # of the best head's score: so good must another one be to be asked as well
GOOD_ENOUGH = 0.4  # score under which nothing follows; heads that do not follow have 0.0 to 0.15, the mini's best 0.8
_NEAR = 1  # tokens beside the path that still count as on it: a sound may belong to two letters
_POSITIONS = 512  # of KV a row: one sentence


@dataclass(frozen=True, slots=True, order=True)
class Scored:
    """A head with its score in [0, 1]: share of attention on the path, times share of the text that the path passes."""

    score: float
    head: Head


def rank(loaded: Loaded, spoken: Sequence[tuple[str, Codes]]) -> list[Scored]:
    """Every head of the slow stack, best first. spoken: what was said, and the frames of saying it, [K, T], T >= 1."""
    stack = loaded.model.config.slow
    scores = [[score(looks) for looks in all_looks(loaded, text, codes)] for text, codes in spoken]
    mean = np.mean(scores, 0)
    heads = [Head(layer, head) for layer in range(stack.n_layer) for head in range(stack.n_head)]
    return sorted((Scored(float(s), head) for s, head in zip(mean, heads, strict=True)), reverse=True)


def choose(ranked: Sequence[Scored]) -> tuple[Head, ...]:
    """The best heads, in the order of the model; empty where none follows the text well enough."""
    best = ranked[0].score
    return tuple(sorted(s.head for s in ranked[:MOST_HEADS] if s.score >= max(GOOD_ENOUGH, AS_GOOD * best)))


def score(looks: npt.NDArray[np.float32]) -> float:
    """Of one head on one sentence, see Scored. looks: [frames, tokens]."""
    path = path_of(looks)
    tokens = np.arange(looks.shape[1])
    on_path = float(np.where(np.abs(tokens - path[:, None]) <= _NEAR, looks, 0.0).sum(1).mean())
    # What a leap passes over was not spoken: in a frame at most a few tokens can be.
    stride = 2 + 3 * looks.shape[1] / len(path)
    passed = float(np.minimum(np.diff(path), stride).sum() / max(1, looks.shape[1] - 1))
    return min(1.0, passed) * on_path


@torch.inference_mode()
def all_looks(loaded: Loaded, text: str, codes: Codes) -> Looks:
    """What every head looks at while these frames [K, T] are drawn for a text, layer by layer, as if it were a conversation's first."""
    prompts, model = loaded.prompts, loaded.model
    system, user = prompts.system(Voice("none")), prompts.user(text)
    column, starts = prompts.text_starts(text)
    first = system.shape[1] + user.shape[1] - 1  # the position from which the first frame is drawn
    at = slice(system.shape[1] + column, system.shape[1] + column + len(starts))
    matrix = np.concatenate([system, user, prompts.frames(codes[:, :-1])], 1)
    seen: list[Tensor] = []

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[2] // k.shape[2]
        keys = k[0].repeat_interleave(groups, 1).transpose(0, 1).float()  # [H, L, hd]
        scores = q[0, first:].transpose(0, 1).float() @ keys.transpose(1, 2) * q.shape[-1] ** -0.5  # [H, T, L]
        future = torch.ones(scores.shape[1:], dtype=torch.bool, device=q.device).triu(first + 1)
        seen.append(scores.masked_fill(future, -torch.inf).softmax(-1)[..., at])
        return grouped_attention(q, k, v, causal=True)

    x = model.embed(torch.from_numpy(matrix)[None].to(model.device))
    model.slow(x, torch.arange(matrix.shape[1], device=model.device)[None], attend)
    return torch.cat(seen).cpu().numpy()


def speak(loaded: Loaded, texts: Sequence[str], seed: int = 0) -> list[list[Frame]]:
    """Let the model say each text in a conversation of its own, as it is served; its frames, of which there may be none."""
    core = core_of(loaded, EngineLimits(max_streams=len(texts), kv_positions=_POSITIONS * len(texts)))
    frames: dict[int, list[Frame]] = {key: [] for key in range(len(texts))}
    most = max(len(text) for text in texts) * 3  # frames: slower than anybody speaks
    for key, text in enumerate(texts):
        core.handle(c.Open(key, Conversation(f"align-{key}"), Voice("none"), SamplingParams(seed=seed), 0))
        core.handle(c.Push(key, text))
        core.handle(c.Finish(key))
        core.handle(c.Allow(key, most))
    while core.has_work():
        for key, event in core.step().events:
            if isinstance(event, Frame):
                frames[key].append(event)
    core.close()
    return list(frames.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 where no head follows the text, and then no file is written."""
    parser = argparse.ArgumentParser("python -m engine.align", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", help="mini, or the folder of a checkpoint")
    parser.add_argument("--device", default="auto", help="of torch; auto: a GPU where there is one")
    parser.add_argument("--dtype", default="auto", choices=("auto", *DTYPES), help="of the language model")
    parser.add_argument("--texts", type=Path, help="sentences to speak, one a line, for a model of other languages")
    parser.add_argument("--show", type=int, default=8, help="heads to print, best first (default 8)")
    options = parser.parse_args(arguments)
    folder = resolve(options.folder).folder
    texts = SENTENCES
    if options.texts is not None:
        texts = tuple(line.strip() for line in options.texts.read_text(encoding="utf-8").splitlines() if line.strip())
    loaded = load_model(folder, options.folder, options.device, options.dtype, None)
    spoken = [
        (t, np.stack([f.codes for f in frames], 1))
        for t, frames in zip(texts, speak(loaded, texts), strict=True)
        if frames
    ]
    if not spoken:
        print("the model says nothing", file=sys.stderr)
        return 1
    ranked = rank(loaded, spoken)
    for scored in ranked[: options.show]:
        print(f"layer {scored.head.layer:2d} head {scored.head.head:2d}: {scored.score:.3f}")
    heads = choose(ranked)
    if not heads:
        print(f"no head reaches {GOOD_ENOUGH}: nothing is written, word times will be estimated", file=sys.stderr)
        return 1
    best = ranked[0].score
    path = ChosenHeads(heads, weights_id(folder), best).save(folder)
    print(f"{path}: {', '.join(f'layer {head.layer} head {head.head}' for head in heads)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

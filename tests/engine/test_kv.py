"""Pages and paged attention, against the plain path on the tiny reference model."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.attention import causal, grouped_attention
from engine.config import load_model_config
from engine.kv import PAGE, CachedSequence, OutOfPages, PagedAttention, PagePool
from engine.model import DualAR

FIXTURE = Path(__file__).parents[1] / "fixtures" / "s2pro"
TOLERANCE = 1e-4  # the fixture's, for fp32 hidden states


@pytest.fixture(scope="module")
def model() -> DualAR:
    torch.manual_seed(0)
    config = load_model_config(FIXTURE)
    return DualAR(config).eval().requires_grad_(False)


def pool_for(model: DualAR, pages: int = 64) -> PagePool:
    slow = model.config.slow
    return PagePool(slow.n_layer, slow.n_kv_head, slow.head_dim, pages, model.device, model.dtype)


def random_columns(model: DualAR, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    config = model.config
    codes = rng.integers(0, 1024, (config.num_codebooks, n))
    return np.concatenate([config.semantic_begin + codes[:1], codes]).astype(np.int64)


def hidden_plain(model: DualAR, columns: np.ndarray) -> torch.Tensor:
    x = model.embed(torch.from_numpy(columns)[None])
    return model.slow(x, torch.arange(columns.shape[1])[None], causal).head[0]


def advance(model: DualAR, pool: PagePool, rows: list[CachedSequence], parts: list[np.ndarray]) -> list[torch.Tensor]:
    """Extend each row by its part in one padded pass; returns each row's new hidden states."""
    for row, part in zip(rows, parts, strict=True):
        row.extend(part)
    widths = [part.shape[1] for part in parts]
    attend = PagedAttention(pool, rows, widths)
    padded = [np.pad(part, ((0, 0), (0, max(widths) - part.shape[1])), mode="edge") for part in parts]
    x = model.embed(torch.from_numpy(np.stack(padded)))
    h = model.slow(x, attend.positions, attend).head
    return [h[b, :n] for b, n in enumerate(widths)]


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 40), min_size=2, max_size=6), seed=st.integers(0, 5))
def test_any_cutting_into_passes_equals_one_full_pass(model: DualAR, cuts: list[int], seed: int) -> None:
    columns = random_columns(model, sum(cuts), seed)
    pool = pool_for(model)
    row = CachedSequence(pool, model.config.num_codebooks)
    parts = np.split(columns, np.cumsum(cuts)[:-1], axis=1)
    got = torch.cat([advance(model, pool, [row], [part])[0] for part in parts])
    assert (got - hidden_plain(model, columns)).abs().max() < TOLERANCE


@pytest.mark.gpu
@pytest.mark.parametrize("length", [1, 2, 70])
def test_one_row_on_a_gpu_needs_no_mask(length: int) -> None:
    torch.manual_seed(0)
    pool = PagePool(1, 2, 16, 8, torch.device("cuda"), torch.bfloat16)
    row = CachedSequence(pool, 1)
    row.pages = [5, 2, 7, 1]
    past = torch.randn(1, 40, 3, 2, 16, device="cuda", dtype=torch.bfloat16)
    row.length = 40
    PagedAttention(pool, [row], [40])(0, past[:, :, 0].repeat(1, 1, 4, 1), past[:, :, 1], past[:, :, 2])
    row.length += length
    q = torch.randn(1, length, 8, 16, device="cuda", dtype=torch.bfloat16)
    k, v = torch.randn(2, 1, length, 2, 16, device="cuda", dtype=torch.bfloat16)
    found = PagedAttention(pool, [row], [length])(0, q, k, v)
    mask = torch.ones(length, 40 + length, dtype=torch.bool, device="cuda").tril(40)
    both = (torch.cat(pair, 1).double() for pair in ((past[:, :, 1], k), (past[:, :, 2], v)))
    assert (found - grouped_attention(q.double(), *both, mask[None, None])).abs().max() < 3e-2


def test_rows_of_different_lengths_share_a_pass(model: DualAR) -> None:
    pool = pool_for(model)
    prompts = [random_columns(model, n, seed) for seed, n in enumerate((5, 70, 33))]
    rows = [CachedSequence(pool, model.config.num_codebooks) for _ in prompts]
    advance(model, pool, rows, [p[:, :-4] if p.shape[1] > 5 else p[:, :1] for p in prompts])
    got = advance(model, pool, rows, [p[:, row.length :] for p, row in zip(prompts, rows, strict=True)])
    for prompt, h in zip(prompts, got, strict=True):
        assert (h - hidden_plain(model, prompt)[-h.shape[0] :]).abs().max() < TOLERANCE


def test_a_truncated_sequence_forgets_what_came_after(model: DualAR) -> None:
    pool = pool_for(model)
    row = CachedSequence(pool, model.config.num_codebooks)
    first, second = random_columns(model, 90, 1), random_columns(model, 50, 2)
    advance(model, pool, [row], [first])
    row.truncate(41)
    got = advance(model, pool, [row], [second])[0]
    expected = hidden_plain(model, np.concatenate([first[:, :41], second], axis=1))[41:]
    assert (got - expected).abs().max() < TOLERANCE


def test_a_fork_does_not_disturb_its_origin(model: DualAR) -> None:
    pool = pool_for(model)
    voice = CachedSequence(pool, model.config.num_codebooks)
    prefix = random_columns(model, 45, 1)
    advance(model, pool, [voice], [prefix])
    taken = pool.free
    one, two = voice.fork(45), voice.fork(40)
    assert pool.free == taken, "sharing takes no page"
    tails = [random_columns(model, 20, 2), random_columns(model, 30, 3)]
    for row, tail, shared in ((one, tails[0], 45), (two, tails[1], 40)):
        got = advance(model, pool, [row], [tail])[0]
        expected = hidden_plain(model, np.concatenate([prefix[:, :shared], tail], axis=1))[shared:]
        assert (got - expected).abs().max() < TOLERANCE
    again = advance(model, pool, [voice], [tails[0]])[0]
    assert (again - hidden_plain(model, np.concatenate([prefix, tails[0]], axis=1))[45:]).abs().max() < TOLERANCE


def test_the_common_prefix_counts_every_codebook(model: DualAR) -> None:
    pool = pool_for(model)
    row = CachedSequence(pool, model.config.num_codebooks)
    columns = random_columns(model, 20, 1)
    row.extend(columns)
    other = columns.copy()
    other[-1, 12] += 1
    assert row.common_prefix(columns) == 20
    assert row.common_prefix(other) == 12
    assert row.common_prefix(columns[:, :7]) == 7


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["new", "extend", "truncate", "fork", "drop"]), st.integers(0, 200)), max_size=40
    )
)
def test_no_page_is_leaked_or_owned_twice(operations: list[tuple[str, int]]) -> None:
    pool = PagePool(1, 1, 2, 24, torch.device("cpu"), torch.float32)
    rows: list[CachedSequence] = []
    for operation, n in operations:
        row = rows[n % len(rows)] if rows else None
        try:
            if operation == "new":
                rows.append(CachedSequence(pool, 2))
            elif row is None:
                continue
            elif operation == "extend":
                row.extend(np.full((3, n), n, np.int64))
            elif operation == "truncate":
                row.truncate(n % (row.length + 1))
            elif operation == "fork":
                rows.append(row.fork(n % (row.length + 1)))
            else:
                row.truncate(0)
                rows.remove(row)
        except OutOfPages:
            assert pool.free == 0
    owners = [page for row in rows for page in row.pages]
    assert all(owners.count(page) == pool._references[page] for page in range(pool.pages))
    for row in rows:
        assert len(row.pages) * PAGE >= row.length
        row.truncate(0)
    assert pool.free == pool.pages


def test_a_lone_growing_sequence_stays_contiguous() -> None:
    pool = PagePool(1, 1, 2, 64, torch.device("cpu"), torch.float32)
    one, two = CachedSequence(pool, 2), CachedSequence(pool, 2)
    for _ in range(200):
        one.extend(np.zeros((3, 1), np.int64))
        two.extend(np.zeros((3, 1), np.int64))
    for row in (one, two):
        assert row.pages == list(range(row.pages[0], row.pages[0] + len(row.pages)))


def test_a_page_is_clean_whoever_had_it_before() -> None:
    pool = PagePool(2, 1, 2, 3, torch.device("cpu"), torch.float32)
    first = CachedSequence(pool, 2)
    first.extend(np.zeros((3, 3 * PAGE), np.int64))
    pool.keys.fill_(float("nan"))
    pool.values.fill_(float("nan"))
    first.truncate(PAGE)
    second = CachedSequence(pool, 2)
    second.extend(np.zeros((3, 5), np.int64))
    page = second.pages[0]
    assert not pool.keys[:, page].any() and not pool.values[:, page].any()
    assert pool.keys[:, first.pages[0]].isnan().all(), "what is owned is left alone"


def test_nan_in_one_rows_pages_stays_there(model: DualAR) -> None:
    lengths = (70, 5, 33)
    for victim in range(3):
        pool = pool_for(model, pages=8)
        rows = [CachedSequence(pool, model.config.num_codebooks) for _ in lengths]
        for row, n in zip(rows, lengths, strict=True):
            advance(model, pool, [row], [random_columns(model, n, n)])
        pool.keys[:, rows[victim].pages] = float("nan")
        pool.values[:, rows[victim].pages] = float("nan")
        got = advance(model, pool, rows, [random_columns(model, 2, 9)] * 3)
        assert [bool(h.isfinite().all()) for h in got] == [b != victim for b in range(3)]


def test_room_for_the_next_position_is_its_own_page_if_there_is_one() -> None:
    pool = PagePool(1, 1, 4, 3, torch.device("cpu"), torch.float32)
    sequence = CachedSequence(pool, 1)
    assert sequence.make_room() and len(sequence.pages) == 1  # an empty one has none yet
    sequence.extend(np.zeros((2, PAGE), np.int64))
    assert len(sequence.pages) == 1
    assert sequence.make_room() and sequence.make_room() and len(sequence.pages) == 2
    sequence.extend(np.zeros((2, 1), np.int64))
    twin = sequence.fork(PAGE + 1)
    assert not sequence.make_room() and not twin.make_room()  # each would write into what the other reads
    twin.truncate(0)
    assert sequence.make_room()
    sequence.extend(np.zeros((2, 2 * PAGE - 1), np.int64))
    assert not sequence.make_room() and pool.free == 0
    sequence.truncate(0)
    assert pool.free == 3

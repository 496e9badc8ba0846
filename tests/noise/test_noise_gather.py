"""Gathered rows have the bits of the whole table, perturbed and then indexed; nothing else is written."""

import itertools

import noise_cases
import pytest
import torch
from one_tensor import perturb_pair_into

from sglang_mezo_plugin.noise import Distribution, Region, StepNumbers, gather_pair_into

SEED, EPS = 2**40 + 5, noise_cases.EPS
NUMBERS = StepNumbers("cpu")
NUMBERS.set(SEED, EPS)
by_distribution = pytest.mark.parametrize("distribution", noise_cases.DISTRIBUTIONS)
WHOLE = Region.whole("model.embed_tokens.weight", (24, 301))
ROWS = torch.tensor([23, 0, 7, 7, 23, 11])

# What of the parameter the table holds. Most rows begin, and end, inside a Philox block.
REGIONS = {
    "all": WHOLE,
    "columns": WHOLE.column_slice(131, 262),
    "rows": Region.whole("model.embed_tokens.weight", (48, 301)).row_slice(24, 48),
    "both": Region.whole("model.embed_tokens.weight", (60, 517)).row_slice(5, 29).column_slice(3, 510),
}


def table_of(region: Region, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(region.rows, region.cols, generator=generator).to(dtype)


def whole_then_index(
    weight: torch.Tensor,
    rows: torch.Tensor,
    distribution: Distribution,
    region: Region,
    dtypes: tuple[torch.dtype, ...],
) -> list[torch.Tensor]:
    tables = [torch.empty(weight.shape, dtype=dtype) for dtype in dtypes]
    perturb_pair_into(*tables, weight, SEED, region, EPS, distribution)
    return [table[rows] for table in tables]


def assert_same_bits(got: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(noise_cases.bits(one), noise_cases.bits(other))


@by_distribution
@pytest.mark.parametrize("region", REGIONS.values(), ids=REGIONS)
def test_same_bits_for_all_dtypes(region: Region, distribution: Distribution) -> None:
    for dtype, *dtypes in itertools.product(noise_cases.DTYPES, repeat=3):
        weight = table_of(region, dtype)
        outs = [torch.empty(len(ROWS), region.cols, dtype=out_dtype) for out_dtype in dtypes]
        gather_pair_into(*outs, weight, ROWS, region, distribution, NUMBERS)
        assert_same_bits(outs, whole_then_index(weight, ROWS, distribution, region, tuple(dtypes)))
        assert torch.equal(weight, table_of(region, dtype))


@by_distribution
@pytest.mark.parametrize(
    "rows",
    [ROWS.int(), ROWS[::2], ROWS[:1], ROWS[3:4].expand(40), torch.arange(23, -1, -1)],
    ids=["int32", "strided", "one", "one row 40 times", "all"],
)
def test_same_bits_for_all_kinds_of_rows(rows: torch.Tensor, distribution: Distribution) -> None:
    weight = table_of(WHOLE, torch.float16)
    outs = [torch.empty(len(rows), WHOLE.cols, dtype=torch.float16) for _ in range(2)]
    gather_pair_into(*outs, weight, rows, WHOLE, distribution, NUMBERS)
    assert_same_bits(outs, whole_then_index(weight, rows, distribution, WHOLE, (torch.float16,) * 2))


@by_distribution
def test_views_with_any_strides_and_their_surroundings(distribution: Distribution) -> None:
    """A transposed table, and outputs amid columns and rows that stay."""
    weight = table_of(WHOLE, torch.bfloat16).t().contiguous().t()
    around = [torch.full((len(ROWS) + 2, 2 * WHOLE.cols + 1), 7.0) for _ in range(2)]
    outs = [memory[1:-1, 1::2] for memory in around]
    gather_pair_into(*outs, weight, ROWS, WHOLE, distribution, NUMBERS)
    assert_same_bits(outs, whole_then_index(weight, ROWS, distribution, WHOLE, (torch.float32,) * 2))
    for memory, out in zip(around, outs, strict=True):
        out.fill_(7.0)
        assert torch.equal(memory, torch.full_like(memory, 7.0))


@by_distribution
def test_tables_beyond_two_to_the_31_elements(distribution: Distribution) -> None:
    """Only the rows that are read become memory of this table's 4.6 GB."""
    region, last = Region.whole("lm_head.weight", (70_000, 2**15)), 69_999
    weight = torch.empty(region.rows, region.cols, dtype=torch.float16)
    weight[last] = 0.5
    outs, wanted = ([torch.empty(1, region.cols) for _ in range(2)] for _ in range(2))
    rows = torch.tensor([last], dtype=torch.int32)
    gather_pair_into(*outs, weight, rows, region, distribution, NUMBERS)
    only = region.row_slice(last, region.rows)
    perturb_pair_into(*wanted, weight[last:], SEED, only, EPS, distribution)
    assert_same_bits(outs, wanted)


@pytest.mark.parametrize(("shape", "rows"), [((4, 6), []), ((0, 6), []), ((4, 0), [3, 3])])
def test_nothing_to_gather(shape: tuple[int, int], rows: list[int]) -> None:
    """No tokens in this shard of the vocabulary; a shard that holds padding alone; no columns."""
    outs = [torch.empty(len(rows), shape[1]) for _ in range(2)]
    index = torch.tensor(rows, dtype=torch.int64)
    gather_pair_into(*outs, torch.zeros(shape), index, Region.whole("w", shape), "gaussian", NUMBERS)

"""One seed is one direction, however the engine lays its tensors out."""

import noise_cases
import numpy as np
import pytest
import torch
from one_tensor import accumulate_, direction_into, perturb_into

from sglang_mezo_plugin.noise import Distribution, Region
from sglang_mezo_plugin.noise.philox import fused_multiply_add

SEED = 2**40 + 5
by_distribution = pytest.mark.parametrize("distribution", noise_cases.DISTRIBUTIONS)
ROWS, COLS = 24, 130  # neither a multiple of 128, nor (130) of 4
WHOLE = Region.whole("layers.0.q_proj.weight", (ROWS, COLS))


def z_of(distribution: Distribution, region: Region, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    out = torch.empty(region.rows, region.cols, dtype=dtype)
    direction_into(out, SEED, region, distribution)
    return out


@by_distribution
def test_fused_qkv_holds_the_directions_of_its_parts(distribution: Distribution) -> None:
    regions = [Region.whole(f"layers.0.{part}_proj.weight", (ROWS, COLS)) for part in "qkv"]
    fused = torch.zeros(3 * ROWS, COLS)
    for part, region in zip(fused.split(ROWS), regions, strict=True):
        accumulate_(part, [(SEED, 2.0)], region, distribution=distribution)
    assert torch.equal(fused, 2 * torch.cat([z_of(distribution, region) for region in regions]))


@by_distribution
def test_shards_are_slices(distribution: Distribution) -> None:
    z = z_of(distribution, WHOLE)
    for rank in range(2):
        rows, cols = (rank * 12, rank * 12 + 12), (rank * 65, rank * 65 + 65)
        assert torch.equal(z_of(distribution, WHOLE.row_slice(*rows)), z[slice(*rows)])
        assert torch.equal(z_of(distribution, WHOLE.column_slice(*cols)), z[:, slice(*cols)])
    both = WHOLE.row_slice(3, 9).column_slice(7, 100)
    assert torch.equal(z_of(distribution, both), z[3:9, 7:100])


@by_distribution
def test_one_dimension_and_its_shards(distribution: Distribution) -> None:
    region = Region.whole("layers.0.q_proj.bias", (300,))
    z, shard = torch.empty(300), torch.empty(150)
    direction_into(z, SEED, region, distribution)
    direction_into(shard, SEED, region.column_slice(150, 300), distribution)
    assert torch.equal(z, z_of(distribution, region)[0])
    assert torch.equal(shard, z[150:])


@by_distribution
def test_padding_rows_stay(distribution: Distribution) -> None:
    embedding = torch.full((ROWS + 8, COLS), 7.0)
    accumulate_(embedding[:ROWS], [(SEED, 0.5)], WHOLE, distribution=distribution)
    assert torch.equal(embedding[:ROWS], 7 + 0.5 * z_of(distribution, WHOLE))
    assert torch.equal(embedding[ROWS:], torch.full((8, COLS), 7.0))


@by_distribution
def test_views_with_any_strides(distribution: Distribution) -> None:
    """A transposed weight (GPT-2's Conv1D), columns of a wider tensor, every second column."""
    z = z_of(distribution, WHOLE)
    wide = torch.zeros(ROWS, 3 * COLS)
    for view in (torch.zeros(COLS, ROWS).t(), wide[:, :COLS], wide[:, COLS::2]):
        out = torch.zeros_like(view, memory_format=torch.preserve_format)
        perturb_into(out, view, SEED, WHOLE, 1.0, distribution)
        assert torch.equal(out, z)
        direction_into(view, SEED, WHOLE, distribution)
        assert torch.equal(view, z)
    assert torch.count_nonzero(wide[:, COLS + 1 :: 2]) == 0


@by_distribution
def test_dtype_only_rounds(distribution: Distribution) -> None:
    z = z_of(distribution, WHOLE)
    for dtype in noise_cases.DTYPES:
        assert torch.equal(z_of(distribution, WHOLE, dtype), z.to(dtype))
        weight = torch.randn(ROWS, COLS, generator=torch.Generator().manual_seed(0)).to(dtype)
        before = weight.clone()
        for out_dtype in noise_cases.DTYPES:
            out = torch.empty(ROWS, COLS, dtype=out_dtype)
            perturb_into(out, weight, SEED, WHOLE, 1e-3, distribution)
            wanted = fused_multiply_add(np.float32(1e-3), z.numpy(), weight.float().numpy())
            assert torch.equal(out, torch.from_numpy(wanted).to(out_dtype))
        assert torch.equal(weight, before)


@by_distribution
def test_threads_do_not_matter(distribution: Distribution) -> None:
    region, threads = Region.whole("lm_head.weight", (40, 1000)), torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(z_of(distribution, region))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)

"""Stochastic rounding where weights move: neighbours only, unbiased, exact where it can be."""

import math

import numpy as np
import pytest
import torch
from one_tensor import accumulate_

from sglang_mezo_plugin.noise import Region, StepNumbers, UpdatePlan, philox, step_numbers

COUNT = 200_000
HALF_DTYPES = [torch.float16, torch.bfloat16]
UP = 0  # the seed of a Rademacher direction


def write(value: float, dtype: torch.dtype, seed: int = 1, decay: float = 1.0) -> torch.Tensor:
    """Store decay * value, which dtype may be unable to represent, in COUNT elements."""
    weight = torch.full((COUNT,), value, dtype=dtype)
    accumulate_(weight, [], Region.whole("w", (COUNT,)), rounding_seed=seed, decay=decay)
    return weight


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_values_that_fit_stay(dtype: torch.dtype) -> None:
    """Every finite value, subnormal ones and both zeros among them, and the infinities; NaN stays NaN."""
    weight = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    wanted = weight.clone()
    for seed in (0, 2**64 - 1):
        got = weight.clone()
        numbers = StepNumbers.moving("cpu", [], seed)
        numbers.words[step_numbers.MOVING] = 1  # by no move, which otherwise means not to round either
        UpdatePlan([(got, Region.whole("w", (2**16,)), True)], "gaussian").accumulate_(numbers)
        assert torch.equal(got.isnan(), weight.isnan())
        numbers = ~weight.isnan()
        assert torch.equal(got.view(torch.int16)[numbers], wanted.view(torch.int16)[numbers])


@pytest.mark.parametrize(
    ("dtype", "value", "decay"),
    [
        (torch.float16, 1.0, 0.9999),  # normal
        (torch.float16, -3.0, 0.77),
        (torch.float16, 2.0**-14, 0.9999),  # from the smallest normal number down
        (torch.float16, -(2.0**-20), 0.61),  # subnormal
        (torch.float16, 2.0**-24, 0.3),  # between zero and the smallest subnormal number
        (torch.float16, -(2.0**-24), 0.001),
        (torch.bfloat16, 1.0, 0.9999),
        (torch.bfloat16, -3.0, 0.77),
        (torch.bfloat16, 2.0**-126, 0.3),  # subnormal
    ],
)
def test_unbiased_between_neighbours(dtype: torch.dtype, value: float, decay: float) -> None:
    exact = float(np.float32(decay) * np.float32(value))
    got = write(value, dtype, decay=decay)
    low, high = sorted(set(got.double().tolist()))
    assert low < exact < high
    assert torch.nextafter(torch.tensor(low, dtype=dtype), torch.tensor(math.inf, dtype=dtype)).item() == high
    share = (exact - low) / (high - low)
    measured = (got.double() == high).double().mean().item()
    assert abs(measured - share) < 5 * math.sqrt(share * (1 - share) / COUNT)


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_seeds_decide(dtype: torch.dtype) -> None:
    first, again, other = (
        write(1.0, dtype, 5, 0.999),
        write(1.0, dtype, 5, 0.999),
        write(1.0, dtype, 6, 0.999),
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, write(1.0, dtype, 5 + 2**32, 0.999))


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_moves_below_half_an_ulp_add_up(dtype: torch.dtype) -> None:
    """300 moves of a 20th of an ulp: rounding to nearest would leave every weight where it was."""
    region, steps = Region.whole("w", (4096,)), 300
    move = torch.finfo(dtype).eps / 20
    weight = torch.full((4096,), 1.5, dtype=dtype)
    signs = torch.from_numpy(philox.rademacher(0, region.parameter, np.arange(4096)))
    assert torch.equal((weight + move * signs).to(dtype), weight)
    for step in range(steps):
        accumulate_(weight, [(UP, move)], region, rounding_seed=step, distribution="rademacher")
    moved = ((weight.double() - 1.5) * signs).mean().item()
    # A step's rounding has the variance p (1 - p) ulp**2 with p = 1/20; steps and elements are independent.
    sigma = torch.finfo(dtype).eps * math.sqrt(steps * 0.05 * 0.95 / 4096)
    assert abs(moved - steps * move) < 5 * sigma
    assert steps * move > 100 * sigma


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_overflow_stops_at_the_largest_value(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    region = Region.whole("w", (8,))
    signs = torch.from_numpy(philox.rademacher(0, region.parameter, np.arange(8)))
    weight = (largest * signs).to(dtype)
    weight[5:] = torch.tensor([math.inf, -math.inf, math.nan])
    # For bf16 the move must be small: fp32 ends just above bf16, and a sum beyond fp32 is infinite.
    accumulate_(weight, [(UP, largest / 1024)], region, rounding_seed=0, distribution="rademacher")
    assert torch.equal(weight[:5].float(), largest * signs[:5])
    assert weight[5:7].tolist() == [math.inf, -math.inf] and weight[7].isnan()


def test_fp32_is_plain_and_in_order() -> None:
    region = Region.whole("w", (1000,))
    weight = torch.linspace(-1, 1, 1000)
    moves = [(seed, 10.0**-seed) for seed in range(5)]
    wanted = np.float32(0.9) * weight.numpy()
    for seed, coefficient in moves:
        z = philox.gaussian(seed, region.parameter, np.arange(1000))
        wanted = philox.fused_multiply_add(np.float32(coefficient), z, wanted)
    accumulate_(weight, moves, region, decay=0.9)
    np.testing.assert_array_equal(weight.numpy(), wanted)

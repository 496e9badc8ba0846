"""The same calls for every backend, and what the reference in numpy says of each."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from sglang_mezo_plugin.noise import (
    Distribution,
    Moves,
    PairPlan,
    Region,
    StepNumbers,
    gather_pair_into,
    philox,
)
from sglang_mezo_plugin.noise.philox import fused_multiply_add

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
DISTRIBUTIONS: tuple[Distribution, ...] = ("gaussian", "rademacher")
SEED, OTHER_SEED, ROUNDING_SEED = 2**63 + 12345, 7, 0xFEDCBA9876543210
EPS, DECAY = 0.01, 0.999
MOVES: Moves = [(SEED, EPS), (OTHER_SEED, -3e-4)]

# Aligned to blocks; not at all aligned, up to the last element that there may be; narrow columns of rows so
# wide that the last one begins beyond 2**31; 1-D; long rows.
REGIONS = {
    "whole": Region.whole("layers.0.fc1.weight", (12, 64)),
    "far": Region(0xFFFFFFFF, 2**34 - 2 * 1037 - 101, 3, 101, 1037),
    "narrow": Region(5, 256, 3, 48, 2**30 + 128),
    "bias": Region.whole("layers.0.fc1.bias", (777,)),
    "long": Region(6, 2, 2, 4200, 5120),
}


class Case(NamedTuple):
    name: str
    region: Region
    distribution: Distribution
    dtype: torch.dtype


def cases() -> Iterator[Case]:
    for name, region in REGIONS.items():
        for distribution in DISTRIBUTIONS:
            for dtype in DTYPES:
                yield Case(f"{name}-{distribution}-{str(dtype)[6:]}", region, distribution, dtype)


def weights(region: Region, dtype: torch.dtype) -> torch.Tensor:
    """Weights over many orders of magnitude, fp16's subnormal numbers and its largest among them."""
    generator = np.random.default_rng(0)
    shape = (region.rows, region.cols)
    values = generator.standard_normal(shape) * np.exp(4 * generator.standard_normal(shape) - 4)
    values.flat[:6] = 0.0, -0.0, 65504.0, -65504.0, np.inf, -np.inf
    return torch.from_numpy(values).to(dtype)


def run(device: str) -> dict[str, torch.Tensor]:
    """Make plans of one tensor for all cases, and gather; the results are on the CPU, named case/function."""
    results = {}
    for case in cases():
        weight = weights(case.region, case.dtype).to(device)
        plus, minus = (torch.full_like(weight, torch.nan) for _ in range(2))
        plan = PairPlan([(plus, minus, weight, case.region)], case.distribution)
        numbers = StepNumbers(device)
        numbers.set(SEED, EPS, MOVES, ROUNDING_SEED, DECAY)
        plan.write(numbers)
        gathered = gather(weight, case.region, case.distribution, numbers)
        plan.accumulate_(numbers)
        outputs = {"plus": plus, "minus": minus, "accumulate": weight} | gathered
        results |= {f"{case.name}/{function}": tensor.cpu() for function, tensor in outputs.items()}
    return results


def expected() -> dict[str, torch.Tensor]:
    """What `run` must return, by the reference and by torch's rounding to nearest."""
    results = {}
    for case in cases():
        weight = weights(case.region, case.dtype)
        plus, minus = pair(weight, case.region, case.distribution)
        rows = rows_of(case.region)
        outputs = {
            "plus": plus.to(case.dtype),
            "minus": minus.to(case.dtype),
            "gathered plus": plus.to(case.dtype)[rows],
            "gathered minus": minus.to(case.dtype)[rows],
            "strided plus": plus.to(case.dtype)[rows],
            "strided minus": minus[rows],
            "accumulate": moved(weight, case.region, case.distribution, DECAY),
        }
        results |= {f"{case.name}/{function}": tensor for function, tensor in outputs.items()}
    return results


def gather(
    weight: torch.Tensor, region: Region, distribution: Distribution, numbers: StepNumbers
) -> dict[str, torch.Tensor]:
    """Gather rows, all tensors being contiguous and alike; and again, with other strides and dtypes."""
    rows = rows_of(region).to(weight.device)
    plus, minus = (weight.new_full((len(rows), region.cols), torch.nan) for _ in range(2))
    gather_pair_into(plus, minus, weight, rows, region, distribution, numbers)
    columns = weight.new_full((len(rows), 2 * region.cols), torch.nan)[:, ::2]
    transposed = torch.full((region.cols, len(rows)), torch.nan, device=weight.device).t()
    every_second = rows.int().repeat_interleave(2)[::2]
    table = weight.t().contiguous().t()
    gather_pair_into(columns, transposed, table, every_second, region, distribution, numbers)
    return {
        "gathered plus": plus,
        "gathered minus": minus,
        "strided plus": columns,
        "strided minus": transposed,
    }


def rows_of(region: Region) -> torch.Tensor:
    """The last row twice, and the first."""
    return torch.tensor([region.rows - 1, 0, region.rows - 1])


def pair(weight: torch.Tensor, region: Region, distribution: Distribution) -> list[torch.Tensor]:
    """weight + EPS z and weight - EPS z: fp32 [rows, cols]."""
    z, w = reference(SEED, region, distribution), weight.float().numpy()
    return [torch.from_numpy(fused_multiply_add(np.float32(c), z, w)) for c in (EPS, -EPS)]


def moved(weight: torch.Tensor, region: Region, distribution: Distribution, decay: float) -> torch.Tensor:
    """The weight after MOVES, as a plan stores it with ROUNDING_SEED."""
    total = np.float32(decay) * weight.float().numpy()
    for seed, coefficient in MOVES:
        total = fused_multiply_add(np.float32(coefficient), reference(seed, region, distribution), total)
    return rounded(total, region, weight.dtype)


def reference(seed: int, region: Region, distribution: Distribution) -> np.ndarray:
    """z on a region, by `philox.py`: fp32 [rows, cols]."""
    draw = philox.gaussian if distribution == "gaussian" else philox.rademacher
    return draw(seed, region.parameter, elements(region)).reshape(region.rows, region.cols)


def rounded(values: np.ndarray, region: Region, dtype: torch.dtype) -> torch.Tensor:
    """Values as a plan stores them with ROUNDING_SEED."""
    if dtype == torch.float32:
        return torch.from_numpy(values)
    random = philox.rounding_bits(ROUNDING_SEED, region.parameter, elements(region)).reshape(values.shape)
    bits = philox.round_stochastically(values, random, str(dtype)[6:])
    return torch.from_numpy(bits.view(np.int16)).view(dtype)


def elements(region: Region) -> np.ndarray:
    rows = region.offset + np.arange(region.rows, dtype=np.int64) * region.row_stride
    return (rows[:, None] + np.arange(region.cols, dtype=np.int64)).ravel()


def differences(results: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> dict[str, int]:
    """How many elements of each result have other bits than wanted; names without any are left out."""
    assert results.keys() == wanted.keys()
    counts = {name: int((bits(results[name]) != bits(wanted[name])).sum()) for name in wanted}
    return {name: count for name, count in counts.items() if count}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)

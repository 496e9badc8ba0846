"""The Triton kernels compile for a GPU, without one, to the code that they were written for.

The interpreter accepts more than the compiler does, and says nothing about speed.
"""

from collections.abc import Callable

import pytest
import torch
from kernel_compiler import Compiler

from sglang_mezo_plugin.noise import Distribution, PairPlan, Region, StepNumbers, UpdatePlan, gather_pair_into
from sglang_mezo_plugin.noise.cuda import tiles

ROWS, COLS = 64, 128
REGION = Region.whole("layers.0.weight", (ROWS, COLS))
FP32, FP16, BF16 = torch.float32, torch.float16, torch.bfloat16
PER_THREAD = tiles.TILE // 128  # elements
FMA_A_PAIR = 17  # for two normal numbers: ten for the radius, seven for the angle


def tensors(dtype: torch.dtype, count: int = 3) -> list[torch.Tensor]:
    return [torch.zeros(ROWS, COLS, dtype=dtype) for _ in range(count)]


def pair_plan(distribution: Distribution, dtype: torch.dtype) -> PairPlan:
    return PairPlan([(*tensors(dtype), REGION) for _ in range(3)], distribution)


def update_plan(distribution: Distribution, dtype: torch.dtype) -> UpdatePlan:
    return UpdatePlan([(weight, REGION, True) for weight in tensors(dtype)], distribution)


def gather(distribution: Distribution, dtype: torch.dtype) -> None:
    gather_pair_into(*tensors(dtype), torch.arange(ROWS), REGION, distribution, NUMBERS)


NUMBERS = StepNumbers("cpu")

# What is called; for each element: reads, writes, directions, further fused multiply-adds, random roundings.
# What moves weights and writes them is compiled twice over, for steps that move none.
CALLS: dict[str, tuple[Callable[[Distribution, torch.dtype], None], int, int, int, int, int]] = {
    "gather": (gather, 1, 2, 1, 2, 0),
    "write": (lambda *kind: pair_plan(*kind).write(NUMBERS), 1, 2, 1, 2, 0),
    "update": (lambda *kind: update_plan(*kind).accumulate_(NUMBERS), 1, 1, 1, 1, 1),
    "move and write": (lambda *kind: pair_plan(*kind).move_and_write(NUMBERS), 1 + 1, 3 + 2, 2 + 1, 3 + 2, 1),
}
KINDS = [("gaussian", FP32), ("gaussian", FP16), ("gaussian", BF16), ("rademacher", FP16)]


@pytest.mark.parametrize(
    ("distribution", "dtype"), KINDS, ids=lambda value: str(value).removeprefix("torch.")
)
@pytest.mark.parametrize("call", CALLS)
def test_wide_access_and_each_block_once(
    compiler: Compiler, call: str, distribution: Distribution, dtype: torch.dtype
) -> None:
    function, reads, writes, directions, fused, roundings = CALLS[call]
    function(distribution, dtype)
    accesses = PER_THREAD * dtype.itemsize // 16
    assert compiler.count(r"ld\.global\.v4\.b32") == reads * accesses
    assert compiler.count(r"st\.global\.v4\.b32") == writes * accesses
    assert compiler.count(r"st\.global") == writes * accesses
    # A thread makes the neighbours that it writes: in fp32 twice as many as it writes at once.
    assert dtype == FP32 or compiler.count(r"(ld|st)\.shared") == 0
    # Two products a round; the words that blocks have in common save some of the first rounds.
    roundings = 0 if dtype == FP32 else roundings * PER_THREAD // 8
    blocks = directions * PER_THREAD // (4 if distribution == "gaussian" else 8) + roundings
    assert 17 * blocks <= compiler.count(r"mul\.wide\.u32") <= 20 * blocks
    assert compiler.count(r"mul\.hi") == 0
    # As many as are asked for, and none that may be fused later: those have no rounding of their own.
    normals = directions * PER_THREAD // 2 if distribution == "gaussian" else 0
    fp16_rounding = PER_THREAD if roundings and dtype == FP16 else 0
    assert compiler.count(r"fma\.rn\.f32") == normals * FMA_A_PAIR + fused * PER_THREAD + fp16_rounding
    assert compiler.count(r"(mul|add|sub)\.f32") == 0


def part(
    weight: torch.Tensor, region: Region = REGION
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Region]:
    return (*(torch.zeros(weight.shape, dtype=FP16) for _ in range(2)), weight, region)


def memory(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=FP16)


WIDE = {
    "columns of a wider tensor": part(memory(ROWS, COLS + 8)[:, 8:]),
    "columns of the checkpoint": part(memory(ROWS, 72), Region.whole("w", (ROWS, COLS)).column_slice(8, 80)),
    "one row of any stride": part(memory(4, 25 * 3)[:1, :64], Region.whole("w", (1, 64))),
    "empty": part(memory(0, 1001), Region.whole("w", (0, 1001))),
}
NARROW = {
    "address": part(memory(ROWS * COLS + 1)[1:].view(ROWS, COLS)),
    "row stride": part(memory(ROWS, COLS + 1)[:, :COLS]),
    "column stride": part(memory(ROWS, 2 * COLS)[:, ::2]),
    "transposed": part(memory(COLS, ROWS).t()),
    "offset": part(memory(ROWS, COLS), Region.whole("w", (ROWS, COLS + 16)).column_slice(1, COLS + 1)),
    "rows of the checkpoint": part(memory(ROWS, COLS), Region(1, 0, ROWS, COLS, COLS + 1)),
    "columns": part(memory(ROWS, COLS)[:, :100], Region.whole("w", (ROWS, COLS)).column_slice(0, 100)),
}


@pytest.mark.parametrize("name", [*WIDE, *NARROW])
def test_one_tensor_that_is_not_aligned_makes_access_narrow(compiler: Compiler, name: str) -> None:
    """Wide access to what is not aligned is an error on a GPU."""
    PairPlan([(*tensors(FP16), REGION), (WIDE | NARROW)[name]], "rademacher").write(NUMBERS)
    assert (compiler.count(r"global\.v4") > 0) == (name in WIDE)


@pytest.mark.parametrize("plane", range(3))
def test_outputs_count_as_well(compiler: Compiler, plane: int) -> None:
    planes = tensors(FP16)
    planes[plane] = memory(ROWS * COLS + 1)[1:].view(ROWS, COLS)
    PairPlan([(*planes, REGION)], "rademacher").write(NUMBERS)
    assert compiler.count(r"global\.v4") == 0

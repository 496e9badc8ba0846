"""What a launch on a GPU must not do: compile again, wait, or count beyond 32 bits."""

import pytest
import torch
from kernel_compiler import Compiler

from sglang_mezo_plugin.noise import PairPlan, Region, UpdatePlan, cuda, gather_pair_into

SEEDS = (0, 1, 16, 2**31, 2**32 + 1, 2**64 - 1)
LARGEST = (2**21, 2**13)  # 2**34 elements, as many as there may be


def tensors(*shape: int) -> list[torch.Tensor]:
    return [torch.zeros(shape, dtype=torch.float16) for _ in range(3)]


def meta(*shape: int) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=torch.float16, device="meta")


def test_what_changes_from_call_to_call_compiles_nothing_new(compiler: Compiler) -> None:
    """Seeds, parameters, coefficients, and the number of rows that are gathered."""
    plus, minus, weight = tensors(64, 128)
    for seed in SEEDS:
        region = Region.whole(f"layers.{seed}.weight", (64, 128))
        for count in (1, 2, 16):
            rows = torch.arange(count)
            eps = 1 / (seed + 1)
            gather_pair_into(plus[:count], minus[:count], weight, rows, region, "gaussian", seed, eps)
    assert compiler.versions() == [1, 0]


def test_the_number_of_moves_compiles_nothing_new(compiler: Compiler) -> None:
    plan = UpdatePlan([(tensors(64, 128)[0], Region.whole("w", (64, 128)), True)], "gaussian")
    for count in (0, 1, 2, 16, 17):
        plan.accumulate_([(seed, 0.5) for seed in range(count)], 1)
    assert compiler.versions() == [0, 1]


def test_plans_compile_once_for_each_method(compiler: Compiler) -> None:
    """Whatever the seeds, the coefficients, decay, and the layer whose tensors are written."""
    for layer, seed in enumerate(SEEDS):
        shapes = [(64 + 8 * layer, 128), (16, 128 * (layer + 1)), (8, 8)]
        parts = [(*tensors(*shape), Region.whole(f"{layer}.{shape}", shape)) for shape in shapes]
        plan = PairPlan(parts, "gaussian", [layer % 2 == 0, True, False])
        moves = [(seed, 1 / (seed + 1))] * (layer + 1)
        plan.write(seed, 1 / (seed + 1))
        plan.accumulate_(moves, seed, 1 - seed / 2**64)
        plan.move_and_write(seed, seed / 2**64, moves, seed, seed / 2**64)
    assert compiler.versions() == [0, 3]


def test_arguments_of_one_become_constants(compiler: Compiler) -> None:
    """Triton takes an integer argument of 1 for a constant, which has fewer methods than a number."""
    region = Region(1, 1, 1, 1, 1)
    plus, minus, weight = tensors(1, 1)
    gather_pair_into(plus, minus, weight, torch.zeros(1, dtype=torch.int64), region, "rademacher", 1, 1.0)
    PairPlan([(plus, minus, weight, region)], "gaussian").move_and_write(1, 1.0, [(1, 1.0)], 1)
    assert compiler.versions() == [1, 1]


@pytest.mark.parametrize("shape", [LARGEST, (1, 2**34), (2**13, 2**21)], ids=str)
def test_the_largest_tensors(compiler: Compiler, shape: tuple[int, int]) -> None:
    """Two tensors of 2**34 elements: moved, and perturbed too."""
    region = Region.whole("w", shape)
    cuda.MultiTensor([([meta(*shape)], region, True)] * 2, "rademacher").run(None, 0.0, [], 1, 1.0)
    planes = [meta(*shape) for _ in range(3)]
    cuda.MultiTensor([(planes, region, True)] * 2, "rademacher").run(1, 1.0, [], 1, 1.0)
    assert compiler.versions() == [0, 2]


def test_gathering_reads_no_row_number_on_the_host(compiler: Compiler) -> None:
    """A meta tensor has no values to read; the embedding is the largest there may be."""
    rows = torch.empty(5, dtype=torch.int32, device="meta")
    region = Region.whole("w", LARGEST)
    cuda.gather_pair(meta(5, 2**13), meta(5, 2**13), meta(*LARGEST), rows, region, "gaussian", 1, 1.0)
    assert compiler.versions() == [1, 0]

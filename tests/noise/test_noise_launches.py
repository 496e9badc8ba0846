"""What a launch on a GPU must not do: compile again, wait, or count beyond 32 bits."""

import pytest
import torch
from kernel_compiler import Compiler

from sglang_mezo_plugin import noise
from sglang_mezo_plugin.noise import Direction, PairPlan, Region, UpdatePlan
from sglang_mezo_plugin.noise.cuda import kernels as cuda
from sglang_mezo_plugin.noise.cuda import plans as cuda_plans

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
        direction, region = Direction(seed), Region.whole(f"layers.{seed}.weight", (64, 128))
        noise.direction_into(plus, direction, region)
        noise.perturb_pair_into(plus, minus, weight, direction, region, 1 / (seed + 1))
        noise.accumulate_(weight, [(direction, float(seed))], region, seed, 1 - seed / 2**64)
    assert compiler.versions() == [1, 1, 1, 0]
    for count in (1, 2, 16):
        rows = torch.arange(count)
        noise.gather_pair_into(plus[:count], minus[:count], weight, rows, direction, region, 1.0)
    assert compiler.versions() == [1, 2, 1, 0]


def test_the_number_of_moves_compiles_nothing_new(compiler: Compiler) -> None:
    weight, region = tensors(64, 128)[0], Region.whole("w", (64, 128))
    plan = UpdatePlan([(weight, region, True)])
    for count in (0, 1, 2, 16, 17):
        moves = [(Direction(seed), 0.5) for seed in range(count)]
        noise.accumulate_(weight, moves, region, 1)
        plan.accumulate_(moves, 1)
    assert compiler.versions() == [0, 0, 1, 1]


def test_plans_compile_once_for_each_method(compiler: Compiler) -> None:
    """Whatever the seeds, the coefficients, decay, and the layer whose tensors are written."""
    for layer, seed in enumerate(SEEDS):
        direction = Direction(seed)
        shapes = [(64 + 8 * layer, 128), (16, 128 * (layer + 1)), (8, 8)]
        parts = [(*tensors(*shape), Region.whole(f"{layer}.{shape}", shape)) for shape in shapes]
        plan = PairPlan(parts, [layer % 2 == 0, True, False])
        moves = [(direction, 1 / (seed + 1))] * (layer + 1)
        plan.write(direction, 1 / (seed + 1))
        plan.accumulate_(moves, seed, 1 - seed / 2**64)
        plan.move_and_write(direction, seed / 2**64, moves, seed, seed / 2**64)
    assert compiler.versions() == [0, 0, 0, 3]


def test_arguments_of_one_become_constants(compiler: Compiler) -> None:
    """Triton takes an integer argument of 1 for a constant, which has fewer methods than a number."""
    region = Region(1, 1, 1, 1, 1)
    plus, minus, weight = tensors(1)
    noise.direction_into(plus, Direction(1, "rademacher"), region)
    noise.perturb_pair_into(plus, minus, weight, Direction(1), region, 1.0)
    noise.accumulate_(weight, [(Direction(1), 1.0)], region, 1)
    PairPlan([(plus, minus, weight, region)]).move_and_write(Direction(1), 1.0, [(Direction(1), 1.0)], 1)
    assert compiler.versions() == [1, 1, 1, 1]


@pytest.mark.parametrize("shape", [LARGEST, (1, 2**34), (2**13, 2**21)], ids=str)
def test_the_largest_tensors(compiler: Compiler, shape: tuple[int, int]) -> None:
    """Each function on 2**34 elements, plans on two such tensors."""
    region, direction = Region.whole("w", shape), Direction(1, "rademacher")
    cuda.direction_into(meta(*shape), direction, region)
    cuda.perturb_into(meta(*shape), meta(*shape), direction, region, 1.0, meta(*shape))
    cuda.accumulate_(meta(*shape), [], region, 1, 1.0)
    cuda_plans.Plan([([meta(*shape)], region, True)] * 2).run(None, 0.0, [], 1, 1.0)
    assert compiler.versions() == [1, 1, 1, 1]


def test_gathering_reads_no_row_number_on_the_host(compiler: Compiler) -> None:
    """A meta tensor has no values to read; the table is the largest there may be, the outputs are small."""
    rows = torch.empty(5, dtype=torch.int32, device="meta")
    region = Region.whole("w", LARGEST)
    cuda.perturb_into(meta(5, 2**13), meta(*LARGEST), Direction(1), region, 1.0, meta(5, 2**13), rows)
    assert compiler.versions() == [0, 1, 0, 0]

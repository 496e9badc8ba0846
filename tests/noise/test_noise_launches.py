"""What a launch on a GPU must not do: compile again, wait, or count beyond 32 bits."""

import pytest
import torch
from kernel_compiler import Compiler

from sglang_mezo_plugin.noise import PairPlan, Region, StepNumbers, cuda, gather_pair_into

NUMBERS = StepNumbers("cpu")
LARGEST = (2**21, 2**13)  # 2**34 elements, as many as there may be


def tensors(*shape: int) -> list[torch.Tensor]:
    return [torch.zeros(shape, dtype=torch.float16) for _ in range(3)]


def meta(*shape: int) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=torch.float16, device="meta")


def test_what_changes_from_call_to_call_compiles_nothing_new(compiler: Compiler) -> None:
    """Parameters, and the number of rows that are gathered."""
    plus, minus, weight = tensors(64, 128)
    for layer in range(6):
        region = Region.whole(f"layers.{layer}.weight", (64, 128))
        for count in (1, 2, 16):
            rows = torch.arange(count)
            gather_pair_into(plus[:count], minus[:count], weight, rows, region, "gaussian", NUMBERS)
    assert compiler.versions() == [1, 0]


def test_plans_compile_once_for_each_method(compiler: Compiler) -> None:
    """Whatever the layer whose tensors are written, and the moves that there is room for."""
    for layer in range(6):
        shapes = [(64 + 8 * layer, 128), (16, 128 * (layer + 1)), (8, 8)]
        parts = [(*tensors(*shape), Region.whole(f"{layer}.{shape}", shape)) for shape in shapes]
        plan, numbers = PairPlan(parts, "gaussian", [layer % 2 == 0, True, False]), StepNumbers("cpu", layer)
        plan.write(numbers)
        plan.accumulate_(numbers)
        plan.move_and_write(numbers)
    assert compiler.versions() == [0, 3]


def test_arguments_of_one_become_constants(compiler: Compiler) -> None:
    """Triton takes an integer argument of 1 for a constant, which has fewer methods than a number."""
    region = Region(1, 1, 1, 1, 1)
    plus, minus, weight = tensors(1, 1)
    rows = torch.zeros(1, dtype=torch.int64)
    gather_pair_into(plus, minus, weight, rows, region, "rademacher", NUMBERS)
    PairPlan([(plus, minus, weight, region)], "gaussian").move_and_write(NUMBERS)
    assert compiler.versions() == [1, 1]


@pytest.mark.parametrize("shape", [LARGEST, (1, 2**34), (2**13, 2**21)], ids=str)
def test_the_largest_tensors(compiler: Compiler, shape: tuple[int, int]) -> None:
    """Two tensors of 2**34 elements: moved, and perturbed too."""
    region = Region.whole("w", shape)
    cuda.MultiTensor([([meta(*shape)], region, True)] * 2, "rademacher").run(NUMBERS, True, False)
    planes = [meta(*shape) for _ in range(3)]
    cuda.MultiTensor([(planes, region, True)] * 2, "rademacher").run(NUMBERS, True, True)
    assert compiler.versions() == [0, 2]


def test_gathering_reads_no_row_number_on_the_host(compiler: Compiler) -> None:
    """A meta tensor has no values to read; the embedding is the largest there may be."""
    rows = torch.empty(5, dtype=torch.int32, device="meta")
    region = Region.whole("w", LARGEST)
    cuda.gather_pair(meta(5, 2**13), meta(5, 2**13), meta(*LARGEST), rows, region, "gaussian", NUMBERS)
    assert compiler.versions() == [1, 0]

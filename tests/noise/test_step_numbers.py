"""Steps of all kinds by a plan have the bits of one tensor after the other, which other tests prove."""

import math
import os
import subprocess
import sys
from pathlib import Path

import noise_cases
import number_cases
import pytest
import torch
from kernel_compiler import Compiler

from sglang_mezo_plugin.noise import PairPlan, Region, StepNumbers, gather_pair_into

HERE = Path(__file__).parent
REGION = Region.whole("w", (64, 128))


@pytest.fixture(scope="module")
def wanted() -> dict[str, torch.Tensor]:
    return number_cases.expected()


def test_numba_has_the_bits_of_single_tensors(wanted: dict[str, torch.Tensor]) -> None:
    assert noise_cases.differences(number_cases.run("cpu"), wanted) == {}


def test_interpreted_triton_has_the_bits_of_single_tensors(
    wanted: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "results.pt"
    paths = [str(HERE.parent.parent), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    worker = [sys.executable, str(HERE / "triton_worker.py"), str(path), "steps"]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert noise_cases.differences(torch.load(path), wanted) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_triton_on_a_gpu_has_the_bits_of_single_tensors(wanted: dict[str, torch.Tensor]) -> None:
    assert noise_cases.differences(number_cases.run("cuda"), wanted) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_reads_the_numbers_each_time() -> None:
    """And the host may set it again at once, before the copy has been made."""
    planes = [torch.randn(64, 128, device="cuda").half() for _ in range(3)]
    expected = [plane.clone() for plane in planes]
    numbers, others = StepNumbers("cuda"), StepNumbers("cuda")
    plan, other = (PairPlan([(*part, REGION)], "gaussian") for part in (planes, expected))
    plan.move_and_write(numbers)  # compiled here
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.move_and_write(numbers)
    for seed in range(50):
        moves = [(1000 + i, 0.1) for i in range(seed % 4)]
        step = seed, seed / 100, moves, seed, 1 - seed / 1000
        numbers.set(*step)
        graph.replay()
        others.set(*step)
        other.move_and_write(others)
    for one, another in zip(planes, expected, strict=True):
        assert torch.equal(one, another)


def test_weights_without_a_move_keep_every_bit() -> None:
    """NaN too, whose bits a rounding would change."""
    values = [0.0, -0.0, math.inf, -math.inf, 65504.0, 2**-24, -3 * 2**-24, math.nan]
    for dtype in noise_cases.DTYPES:
        weight = torch.tensor(values, dtype=dtype)
        weight[-1:].view(torch.int32 if dtype == torch.float32 else torch.int16).add_(1)
        before = noise_cases.bits(weight).clone()
        plus, minus = (torch.zeros(len(values), dtype=dtype) for _ in range(2))
        numbers = StepNumbers("cpu")
        numbers.set(1, 0.1, [], 5, 1.0)
        region = Region.whole("w", (len(values),))
        PairPlan([(plus, minus, weight, region)], "gaussian").move_and_write(numbers)
        assert torch.equal(noise_cases.bits(weight), before)


def planes(count: int = 3) -> list[torch.Tensor]:
    return [torch.zeros(64, 128, dtype=torch.float16) for _ in range(count)]


def test_numbers_in_memory_compile_nothing_new(compiler: Compiler) -> None:
    """Once for each distribution and function: a graph is captured without compiling."""
    for distribution in ("gaussian", "rademacher"):
        numbers, plan = StepNumbers("cpu"), PairPlan([(*planes(), REGION)] * 3, distribution)
        for count in (0, 1, 16):
            seed = 2**64 - 1 - count
            numbers.set(seed, 0.1 * count, [(seed, 1.0)] * count, count, 1 - count / 100)
            plan.move_and_write(numbers)
            plan.write(numbers)
            gather_pair_into(*planes(), torch.arange(64), REGION, distribution, numbers)
    assert compiler.versions() == [2, 4]


def test_an_empty_plan() -> None:
    PairPlan([], "gaussian").move_and_write(StepNumbers("cpu"))

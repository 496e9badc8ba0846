"""A step by numbers in memory has the bits of the same step by arguments, which other tests prove."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import memory_cases
import noise_cases
import pytest
import torch
from kernel_compiler import Compiler

from sglang_mezo_plugin.noise import Distribution, PairPlan, Region, StepNumbers, gather_pair_from

HERE = Path(__file__).parent
REGION = Region.whole("w", (64, 128))


@pytest.fixture(scope="module")
def wanted() -> dict[str, torch.Tensor]:
    return memory_cases.expected()


def test_numba_has_the_bits_of_arguments(wanted: dict[str, torch.Tensor]) -> None:
    assert noise_cases.differences(memory_cases.run("cpu"), wanted) == {}


def test_interpreted_triton_has_the_bits_of_arguments(
    wanted: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "results.pt"
    paths = [str(HERE.parent.parent), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    worker = [sys.executable, str(HERE / "triton_worker.py"), str(path), "memory"]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert noise_cases.differences(torch.load(path), wanted) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_triton_on_a_gpu_has_the_bits_of_arguments(wanted: dict[str, torch.Tensor]) -> None:
    assert noise_cases.differences(memory_cases.run("cuda"), wanted) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_reads_the_numbers_each_time() -> None:
    """And the host may set it again at once, before the copy has been made."""
    planes = [torch.randn(64, 128, device="cuda").half() for _ in range(3)]
    expected = [plane.clone() for plane in planes]
    numbers = StepNumbers("cuda")
    plan, other = (PairPlan([(*part, REGION)], "gaussian") for part in (planes, expected))
    plan.move_and_write_from(numbers)  # compiled here
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.move_and_write_from(numbers)
    for seed in range(50):
        moves = [(1000 + i, 0.1) for i in range(seed % 4)]
        numbers.set(seed, seed / 100, moves, seed, 1 - seed / 1000)
        graph.replay()
        other.move_and_write(seed, seed / 100, moves, seed, 1 - seed / 1000)
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
        PairPlan([(plus, minus, weight, region)], "gaussian").move_and_write_from(numbers)
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
            plan.move_and_write_from(numbers)
            plan.write_from(numbers)
            gather_pair_from(numbers, *planes(), torch.arange(64), REGION, distribution)
    assert compiler.versions() == [2, 4]


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_access_is_as_wide_as_with_arguments(compiler: Compiler, distribution: Distribution) -> None:
    """What moves weights is compiled twice over, for steps that move none."""
    numbers, plan = StepNumbers("cpu"), PairPlan([(*planes(), REGION)] * 3, distribution)
    numbers.set(2, 0.1)
    for call, reads, writes in (
        (lambda: plan.move_and_write_from(numbers), 4, 10),
        (lambda: plan.write_from(numbers), 2, 4),
        (lambda: gather_pair_from(numbers, *planes(), torch.arange(64), REGION, distribution), 2, 4),
    ):
        call()
        assert compiler.count(r"ld\.global\.v4\.b32") == reads
        assert compiler.count(r"st\.global\.v4\.b32") == compiler.count(r"st\.global") == writes
        assert compiler.count(r"(ld|st)\.shared") == 0


def on(device: str) -> StepNumbers:
    numbers = StepNumbers("cpu", room=2)
    numbers.words = numbers.words.to(device)
    return numbers


CASES: dict[str, tuple[Callable[[], object], str]] = {
    "too many": (lambda: on("cpu").set(1, 1.0, [(1, 1.0)] * 3, 1), "room for 2 moves, not for 3"),
    "no seed": (lambda: on("cpu").set(1, 1.0, [(1, 1.0)]), "move by numbers in memory need a rounding_seed"),
    "decay without seed": (lambda: on("cpu").set(1, 1.0, decay=0.9), "in memory need a rounding_seed"),
    "rounding seed": (
        lambda: on("cpu").set(1, 1.0, [(1, 1.0)], 2**64),
        "rounding_seed must be in [0, 2**64)",
    ),
    "seed": (lambda: on("cpu").set(2**64, 1.0), "seed must be in [0, 2**64)"),
    "eps": (lambda: on("cpu").set(1, math.nan), "eps must be finite in fp32, not nan"),
    "coefficient": (lambda: on("cpu").set(1, 1.0, [(1, 1e39)], 1), "coefficient must be finite in fp32"),
    "decay": (lambda: on("cpu").set(1, 1.0, [], 1, 1.01), "decay is a factor in [0, 1], not 1.01"),
    "plan": (
        lambda: PairPlan([(*planes(), REGION)], "gaussian").write_from(on("meta")),
        "different devices: numbers on meta, weights on cpu",
    ),
    "gather": (
        lambda: gather_pair_from(on("meta"), *planes(), torch.arange(64), REGION, "gaussian"),
        "different devices: numbers on meta, weight on cpu",
    ),
}


@pytest.mark.parametrize(("call", "message"), CASES.values(), ids=CASES)
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_what_is_refused_changes_no_number() -> None:
    numbers, moves = on("cpu"), [(1, 1.0)]
    numbers.set(1, 0.5, moves, 7, 0.9)
    for seed, eps, more, decay in ((2**64, 1.0, [], 1.0), (1, math.inf, [], 1.0), (1, 1.0, 3 * moves, 1.0)):
        with pytest.raises(ValueError):
            numbers.set(seed, eps, more, 1, decay)
    assert numbers.read() == (1, 0.5, moves, 7, float(torch.tensor(0.9)))


def test_an_empty_plan() -> None:
    PairPlan([], "gaussian").move_and_write_from(StepNumbers("cpu"))

"""A step by a table's numbers has the bits of the same step by arguments, which other tests prove."""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import noise_cases
import pytest
import table_cases
import torch
from kernel_compiler import Compiler

from sglang_mezo_plugin.noise import Direction, PairPlan, Region, StepTable, gather_pair_from

HERE = Path(__file__).parent
D, SIGNS = Direction(1), Direction(1, "rademacher")
REGION = Region.whole("w", (64, 128))


@pytest.fixture(scope="module")
def wanted() -> dict[str, torch.Tensor]:
    return table_cases.expected()


def test_numba_has_the_bits_of_arguments(wanted: dict[str, torch.Tensor]) -> None:
    assert noise_cases.differences(table_cases.run("cpu"), wanted) == {}


def test_interpreted_triton_has_the_bits_of_arguments(
    wanted: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "results.pt"
    paths = [str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    worker = [sys.executable, str(HERE / "triton_worker.py"), str(path), "table"]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert noise_cases.differences(torch.load(path), wanted) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_triton_on_a_gpu_has_the_bits_of_arguments(wanted: dict[str, torch.Tensor]) -> None:
    assert noise_cases.differences(table_cases.run("cuda"), wanted) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_reads_the_table_each_time() -> None:
    """And the host may set it again at once, before the copy has been made."""
    planes = [torch.randn(64, 128, device="cuda").half() for _ in range(3)]
    expected = [plane.clone() for plane in planes]
    table = StepTable("cuda")
    plan, other = PairPlan([(*planes, REGION)]), PairPlan([(*expected, REGION)])
    plan.move_and_write_from(table)  # compiled here
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan.move_and_write_from(table)
    for seed in range(50):
        moves = [(Direction(1000 + i), 0.1) for i in range(seed % 4)]
        table.set(Direction(seed), seed / 100, moves, seed, 1 - seed / 1000)
        graph.replay()
        other.move_and_write(Direction(seed), seed / 100, moves, seed, 1 - seed / 1000)
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
        table = StepTable("cpu")
        table.set(D, 0.1, [], 5, 1.0)
        PairPlan([(plus, minus, weight, Region.whole("w", (len(values),)))]).move_and_write_from(table)
        assert torch.equal(noise_cases.bits(weight), before)


def planes(count: int = 3) -> list[torch.Tensor]:
    return [torch.zeros(64, 128, dtype=torch.float16) for _ in range(count)]


def test_numbers_of_a_table_compile_nothing_new(compiler: Compiler) -> None:
    """Once for each distribution and function: a graph is captured without compiling."""
    for distribution in ("gaussian", "rademacher"):
        table, plan = StepTable("cpu", distribution), PairPlan([(*planes(), REGION)] * 3)
        for count in (0, 1, 16):
            direction = Direction(2**64 - 1 - count, distribution)
            table.set(direction, 0.1 * count, [(direction, 1.0)] * count, count, 1 - count / 100)
            plan.move_and_write_from(table)
            plan.write_from(table)
            gather_pair_from(table, *planes(), torch.arange(64), REGION)
    assert compiler.versions() == [0, 2, 0, 4]


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_access_is_as_wide_as_with_arguments(compiler: Compiler, distribution: str) -> None:
    """What moves weights is compiled twice over, for tables that move none."""
    table, plan = StepTable("cpu", distribution), PairPlan([(*planes(), REGION)] * 3)
    table.set(Direction(2, distribution), 0.1)
    for call, reads, writes in (
        (lambda: plan.move_and_write_from(table), 4, 10),
        (lambda: plan.write_from(table), 2, 4),
        (lambda: gather_pair_from(table, *planes(), torch.arange(64), REGION), 2, 4),
    ):
        call()
        assert compiler.count(r"ld\.global\.v4\.b32") == reads
        assert compiler.count(r"st\.global\.v4\.b32") == compiler.count(r"st\.global") == writes
        assert compiler.count(r"(ld|st)\.shared") == 0


def on(device: str) -> StepTable:
    table = StepTable("cpu", room=2)
    table.words = table.words.to(device)
    return table


OTHERS = "the table is for 2 moves at most, all gaussian"
CASES: dict[str, tuple[Callable[[], object], str]] = {
    "too many": (lambda: on("cpu").set(D, 1.0, [(D, 1.0)] * 3, 1), OTHERS),
    "direction": (lambda: on("cpu").set(SIGNS, 1.0), OTHERS),
    "both": (lambda: on("cpu").set(SIGNS, 1.0, [(SIGNS, 1.0)], 1), OTHERS),
    "moves": (lambda: on("cpu").set(D, 1.0, [(SIGNS, 1.0)], 1), "all have the same distribution"),
    "no seed": (lambda: on("cpu").set(D, 1.0, [(D, 1.0)]), "move from a table need a rounding_seed"),
    "decay without seed": (lambda: on("cpu").set(D, 1.0, decay=0.9), "move from a table need a rounding_s"),
    "seed": (lambda: on("cpu").set(D, 1.0, [(D, 1.0)], 2**64), "rounding_seed must be in [0, 2**64)"),
    "eps": (lambda: on("cpu").set(D, math.nan), "eps must be finite in fp32, not nan"),
    "coefficient": (lambda: on("cpu").set(D, 1.0, [(D, 1e39)], 1), "coefficient must be finite in fp32"),
    "decay": (lambda: on("cpu").set(D, 1.0, [], 1, 1.01), "decay is a factor in [0, 1], not 1.01"),
    "plan": (
        lambda: PairPlan([(*planes(), REGION)]).write_from(on("meta")),
        "different devices: table on meta, weights on cpu",
    ),
    "gather": (
        lambda: gather_pair_from(on("meta"), *planes(), torch.arange(64), REGION),
        "different devices: table on meta, weight on cpu",
    ),
}


@pytest.mark.parametrize(("call", "message"), CASES.values(), ids=CASES)
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        call()
    assert "\n" not in str(raised.value)


def test_what_is_refused_leaves_a_table_alone() -> None:
    table, moves = on("cpu"), [(D, 1.0)]
    table.set(D, 0.5, moves, 7, 0.9)
    for seed, eps, more, decay in ((SIGNS, 1.0, [], 1.0), (D, math.inf, [], 1.0), (D, 1.0, 3 * moves, 1.0)):
        with pytest.raises(ValueError):
            table.set(seed, eps, more, 1, decay)
    assert table.numbers() == (D, 0.5, moves, 7, float(torch.tensor(0.9)))


def test_an_empty_plan() -> None:
    PairPlan([]).move_and_write_from(StepTable("cpu"))

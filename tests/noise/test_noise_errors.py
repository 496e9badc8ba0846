"""What does not fit is refused, with one line that says what and why."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sglang_mezo_plugin.noise import (
    Distribution,
    PairPlan,
    Region,
    StepNumbers,
    UpdatePlan,
    check_parameter_ids,
    gather_pair_into,
    parameter_id,
)

REGION = Region.whole("w", (4, 6))
ROWS = torch.tensor([3, 0])
NUMBERS, ELSEWHERE = StepNumbers("cpu"), StepNumbers("meta")


def tensor(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape or (4, 6), dtype=dtype, device=device)


def write(out: torch.Tensor, weight: torch.Tensor | None = None) -> None:
    """Write a pair, one of whose outputs is given."""
    PairPlan([(out, tensor(), tensor() if weight is None else weight, REGION)], "gaussian").write(NUMBERS)


def numbers(*step: Any, **options: Any) -> StepNumbers:
    """Numbers with room for two moves, set to a step."""
    made = StepNumbers("cpu", room=2)
    made.set(*step, **options)
    return made


def overlapping() -> None:
    memory = tensor(6, 6)
    write(memory[:4], memory[2:])


def same_outputs() -> None:
    out = tensor()
    PairPlan([(out, out, tensor(), REGION)], "gaussian")


def gather(
    rows: torch.Tensor,
    plus: torch.Tensor | None = None,
    minus: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    distribution: Distribution = "gaussian",
    step: StepNumbers = NUMBERS,
) -> None:
    """Gather two rows into new tensors from a new table, but for what is given."""
    outs = (tensor(2, 6) if out is None else out for out in (plus, minus))
    weight = tensor() if weight is None else weight
    gather_pair_into(*outs, weight, rows, REGION, distribution, step)


def gather_from_overlapping() -> None:
    table = tensor(6, 6)
    gather(ROWS, minus=table[3:5], weight=table[:4])


CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: numbers(-1, 1.0), "seed must be in [0, 2**64), not -1"),
    (lambda: numbers(2**64, 1.0), "seed must be in [0, 2**64)"),
    (lambda: numbers(1.5, 1.0), "seed must be an integer, not 1.5"),
    (lambda: numbers(1, math.nan), "eps must be finite in fp32, not nan"),
    (lambda: numbers(1, 1e39), "eps must be finite in fp32, not 1e+39"),
    (lambda: numbers(1, -math.inf), "eps must be finite in fp32, not -inf"),
    (lambda: numbers(1, 1.0, [(-1, 1.0)], 1), "a move's seed must be in [0, 2**64), not -1"),
    (lambda: numbers(1, 1.0, [(1, math.inf)], 1), "a move's coefficient must be finite in fp32, not inf"),
    (lambda: numbers(1, 1.0, [(1, 1e39)], 1), "a move's coefficient must be finite in fp32, not 1e+39"),
    (lambda: numbers(1, 1.0, [(1, 1.0)] * 3, 1), "there is room for 2 moves, not for 3"),
    (lambda: numbers(1, 1.0, [(1, 1.0)]), "weights that move need a rounding_seed"),
    (lambda: numbers(1, 1.0, decay=0.9), "weights that move need a rounding_seed"),
    (lambda: numbers(1, 1.0, [(1, 1.0)], 2**64), "rounding_seed must be in [0, 2**64)"),
    (lambda: numbers(1, 1.0, [], -3), "rounding_seed must be in [0, 2**64)"),
    (lambda: numbers(1, 1.0, [], 1, 1.5), "decay is a factor in [0, 1], not 1.5"),
    (lambda: numbers(1, 1.0, [], 1, -0.1), "decay is a factor in [0, 1], not -0.1"),
    (lambda: numbers(1, 1.0, [], 1, math.nan), "decay is a factor in [0, 1], not nan"),
    (
        lambda: UpdatePlan([], "uniform"),
        "distribution must be one of ('gaussian', 'rademacher'), not 'uniform'",
    ),
    (lambda: PairPlan([], "uniform"), "distribution must be one of"),
    (lambda: gather(ROWS, distribution="uniform"), "distribution must be one of"),
    (lambda: Region(2**32, 0, 1, 1, 1), "parameter must be in [0, 2**32)"),
    (lambda: Region(0, -1, 1, 1, 1), "must not be negative"),
    (lambda: Region(0, 0, 2, 4, 3), "rows overlap"),
    (lambda: Region(0, 2**34 - 3, 1, 4, 4), "the last element's index must be below 2**34"),
    (lambda: Region(0, 8, 2, 8, 2**34 - 15), "must be below 2**34: Region(parameter=0, offset=8, rows=2"),
    (lambda: Region.whole("w", (2**17, 2**17 + 1)), "must be below 2**34: Region("),
    (lambda: REGION.row_slice(3, 5), "rows 3:5 are outside a region of 4 rows"),
    (lambda: REGION.column_slice(-1, 5), "cols -1:5 are outside a region of 6 cols"),
    (lambda: write(tensor(3, 6)), "out_plus has shape [3, 6], but its region is 4 x 6"),
    (lambda: write(tensor(24)), "out_plus has shape [24], but its region is 4 x 6"),
    (lambda: write(tensor(4, 6, 1)), "out_plus has shape [4, 6, 1]"),
    (lambda: write(tensor(dtype=torch.float64)), "out_plus is torch.float64, not one of"),
    (lambda: write(tensor(device="meta")), "out_plus is on meta"),
    (lambda: write(tensor(4, 1).expand(4, 6)), "out_plus is an expanded view"),
    (lambda: write(tensor(), tensor(dtype=torch.int32)), "weight is torch.int32"),
    (overlapping, "out_plus and weight overlap in memory"),
    (same_outputs, "overlap in memory"),
    (lambda: gather(torch.tensor([0, 4])), "rows must be in [0, 4), but are in [0, 4]"),
    (lambda: gather(torch.tensor([-1, 3]).int()), "rows must be in [0, 4), but are in [-1, 3]"),
    (lambda: gather(torch.tensor([0.0, 1.0])), "rows must be int32 or int64 [n], not torch.float32 [2]"),
    (lambda: gather(ROWS[None]), "rows must be int32 or int64 [n], not torch.int64 [1, 2]"),
    (lambda: gather(ROWS.to("meta")), "tensors are on different devices: "),
    (lambda: gather(ROWS, plus=tensor(6)), "out_plus has shape [6], but 2 rows of 6 are gathered"),
    (lambda: gather(ROWS, minus=tensor(4, 6)), "out_minus has shape [4, 6], but 2 rows of 6 are gathered"),
    (lambda: gather(ROWS, minus=tensor(2, 1).expand(2, 6)), "out_minus is an expanded view"),
    (lambda: gather(ROWS, weight=tensor(5, 6)), "weight has shape [5, 6], but its region is 4 x 6"),
    (lambda: gather(ROWS, weight=tensor(dtype=torch.int8)), "weight is torch.int8, not one of"),
    (gather_from_overlapping, "weight and out_minus overlap in memory"),
    (lambda: gather(ROWS, *[tensor(2, 6)] * 2), "overlap in memory"),
    (
        lambda: PairPlan([(tensor(), tensor(), tensor(), REGION)], "gaussian").write(ELSEWHERE),
        "different devices: numbers on meta, weights on cpu",
    ),
    (
        lambda: UpdatePlan([(tensor(), REGION, True)], "gaussian").accumulate_(ELSEWHERE),
        "different devices: numbers on meta, weights on cpu",
    ),
    (
        lambda: gather(ROWS, step=ELSEWHERE),
        "different devices: numbers on meta, weight on cpu",
    ),
]


@pytest.mark.parametrize(("call", "message"), CASES, ids=[message for _, message in CASES])
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="different devices: weight on cuda:0, out_plus on cpu"):
        write(tensor(), tensor(device="cuda"))


def test_what_is_refused_changes_no_number() -> None:
    made, moves = numbers(1, 0.5, [(1, 1.0)], 7, 0.9), [(1, 1.0)]
    for seed, eps, more, decay in ((2**64, 1.0, [], 1.0), (1, math.inf, [], 1.0), (1, 1.0, 3 * moves, 1.0)):
        with pytest.raises(ValueError):
            made.set(seed, eps, more, 1, decay)
    assert made.read() == (1, 0.5, moves, 7, float(torch.tensor(0.9)))


def test_parameter_ids() -> None:
    """SHA-256 of "w" begins with 50 e7 21 e4. A tied parameter may be named twice."""
    assert parameter_id("w") == 0xE421E750
    check_parameter_ids([f"model.layers.{i}.mlp.up_proj.weight" for i in range(1000)])
    check_parameter_ids(["tied", "tied"])


def test_parameters_that_share_an_id_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"'layers.5917.weight' and 'layers.47510.weight' have the same 32-bit id"
    ):
        check_parameter_ids(["a", "layers.5917.weight", "b", "layers.47510.weight"])

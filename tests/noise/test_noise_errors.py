"""What does not fit is refused, with one line that says what and why."""

import math
import re
from collections.abc import Callable

import pytest
import torch

from sglang_mezo_plugin.noise import (
    Distribution,
    Moves,
    PairPlan,
    Region,
    UpdatePlan,
    check_parameter_ids,
    gather_pair_into,
    parameter_id,
)

REGION = Region.whole("w", (4, 6))
ROWS = torch.tensor([3, 0])


def tensor(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape or (4, 6), dtype=dtype, device=device)


def write(out: torch.Tensor, weight: torch.Tensor | None = None, seed: int = 1, eps: float = 1.0) -> None:
    """Write a pair, one of whose outputs is given."""
    PairPlan([(out, tensor(), tensor() if weight is None else weight, REGION)], "gaussian").write(seed, eps)


def update(
    weight: torch.Tensor,
    moves: Moves = ((1, 1.0),),
    rounding_seed: int | None = None,
    decay: float = 1.0,
) -> None:
    UpdatePlan([(weight, REGION, True)], "gaussian").accumulate_(moves, rounding_seed, decay)


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
    eps: float = 1.0,
    seed: int = 1,
    distribution: Distribution = "gaussian",
) -> None:
    """Gather two rows into new tensors from a new table, but for what is given."""
    outs = (tensor(2, 6) if out is None else out for out in (plus, minus))
    weight = tensor() if weight is None else weight
    gather_pair_into(*outs, weight, rows, REGION, distribution, seed, eps)


def gather_from_overlapping() -> None:
    table = tensor(6, 6)
    gather(ROWS, minus=table[3:5], weight=table[:4])


CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: write(tensor(), seed=-1), "seed must be in [0, 2**64), not -1"),
    (lambda: write(tensor(), seed=2**64), "seed must be in [0, 2**64)"),
    (lambda: write(tensor(), seed=1.5), "seed must be an integer, not 1.5"),
    (lambda: gather(ROWS, seed=2**64), "seed must be in [0, 2**64)"),
    (lambda: update(tensor(), [(-1, 1.0)]), "a move's seed must be in [0, 2**64), not -1"),
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
    (lambda: write(tensor(), eps=math.nan), "eps must be finite in fp32, not nan"),
    (lambda: write(tensor(), eps=1e39), "eps must be finite in fp32, not 1e+39"),
    (lambda: write(tensor(), eps=-math.inf), "eps must be finite in fp32, not -inf"),
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
    (lambda: gather(ROWS, eps=math.nan), "eps must be finite in fp32, not nan"),
    (lambda: update(tensor(), [(1, math.inf)]), "a move's coefficient must be finite"),
    (lambda: update(tensor(dtype=torch.bfloat16)), "weight needs a rounding_seed"),
    (lambda: update(tensor(), rounding_seed=-3), "rounding_seed must be in [0, 2**64)"),
    (lambda: update(tensor(), decay=1.5), "decay is a factor in [0, 1], not 1.5"),
    (lambda: update(tensor(), decay=math.nan), "decay is a factor in [0, 1], not nan"),
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


def test_nothing_is_written_after_an_error() -> None:
    weight = tensor()
    with pytest.raises(ValueError):
        update(weight, [(1, 1.0), (1, math.nan)])
    assert torch.count_nonzero(weight) == 0


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

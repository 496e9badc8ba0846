"""What does not fit is refused, with one line that says what and why."""

import math
import re
from collections.abc import Callable

import pytest
import torch

from sglang_mezo_plugin.noise import (
    Direction,
    Region,
    accumulate_,
    check_parameter_ids,
    direction_into,
    gather_pair_into,
    parameter_id,
    perturb_into,
    perturb_pair_into,
)

D = Direction(1)
REGION = Region.whole("w", (4, 6))
ROWS = torch.tensor([3, 0])


def tensor(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape or (4, 6), dtype=dtype, device=device)


def overlapping() -> None:
    memory = tensor(6, 6)
    perturb_into(memory[:4], memory[2:], D, REGION, 1.0)


def same_outputs() -> None:
    out = tensor()
    perturb_pair_into(out, out, tensor(), D, REGION, 1.0)


def gather(
    rows: torch.Tensor,
    plus: torch.Tensor | None = None,
    minus: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    eps: float = 1.0,
) -> None:
    """Gather two rows into new tensors from a new table, but for what is given."""
    outs = (tensor(2, 6) if out is None else out for out in (plus, minus))
    gather_pair_into(*outs, tensor() if weight is None else weight, rows, D, REGION, eps)


def gather_from_overlapping() -> None:
    table = tensor(6, 6)
    gather(ROWS, minus=table[3:5], weight=table[:4])


CASES: list[tuple[Callable[[], object], str]] = [
    (lambda: Direction(-1), "seed must be in [0, 2**64), not -1"),
    (lambda: Direction(2**64), "seed must be in [0, 2**64)"),
    (lambda: Direction(1.5), "seed must be an integer, not 1.5"),
    (
        lambda: Direction(1, "uniform"),
        "distribution must be one of ('gaussian', 'rademacher'), not 'uniform'",
    ),
    (lambda: Region(2**32, 0, 1, 1, 1), "parameter must be in [0, 2**32)"),
    (lambda: Region(0, -1, 1, 1, 1), "must not be negative"),
    (lambda: Region(0, 0, 2, 4, 3), "rows overlap"),
    (lambda: Region(0, 2**34 - 3, 1, 4, 4), "the last element's index must be below 2**34"),
    (lambda: Region(0, 8, 2, 8, 2**34 - 15), "must be below 2**34: Region(parameter=0, offset=8, rows=2"),
    (lambda: Region.whole("w", (2**17, 2**17 + 1)), "must be below 2**34: Region("),
    (lambda: REGION.row_slice(3, 5), "rows 3:5 are outside a region of 4 rows"),
    (lambda: REGION.column_slice(-1, 5), "cols -1:5 are outside a region of 6 cols"),
    (lambda: direction_into(tensor(3, 6), D, REGION), "out has shape [3, 6], but its region is 4 x 6"),
    (lambda: direction_into(tensor(24), D, REGION), "out has shape [24], but its region is 4 x 6"),
    (lambda: direction_into(tensor(4, 6, 1), D, REGION), "out has shape [4, 6, 1]"),
    (lambda: direction_into(tensor(dtype=torch.float64), D, REGION), "out is torch.float64, not one of"),
    (lambda: direction_into(tensor(device="meta"), D, REGION), "out is on meta"),
    (lambda: direction_into(tensor(4, 1).expand(4, 6), D, REGION), "out is an expanded view"),
    (lambda: perturb_into(tensor(), tensor(dtype=torch.int32), D, REGION, 1.0), "weight is torch.int32"),
    (
        lambda: perturb_into(tensor(), tensor(), D, REGION, math.nan),
        "coefficient must be finite in fp32, not nan",
    ),
    (
        lambda: perturb_into(tensor(), tensor(), D, REGION, 1e39),
        "coefficient must be finite in fp32, not 1e+39",
    ),
    (overlapping, "out and weight overlap in memory"),
    (same_outputs, "overlap in memory"),
    (
        lambda: perturb_pair_into(tensor(), tensor(), tensor(), D, REGION, -math.inf),
        "eps must be finite in fp32",
    ),
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
    (lambda: accumulate_(tensor(), [(D, math.inf)], REGION), "a move's coefficient must be finite"),
    (
        lambda: accumulate_(tensor(), [(D, 1.0), (Direction(1, "rademacher"), 1.0)], REGION),
        "the same distribution",
    ),
    (lambda: accumulate_(tensor(dtype=torch.bfloat16), [(D, 1.0)], REGION), "weight needs a rounding_seed"),
    (
        lambda: accumulate_(tensor(), [(D, 1.0)], REGION, rounding_seed=-3),
        "rounding_seed must be in [0, 2**64)",
    ),
    (lambda: accumulate_(tensor(), [(D, 1.0)], REGION, decay=1.5), "decay is a factor in [0, 1], not 1.5"),
    (
        lambda: accumulate_(tensor(), [(D, 1.0)], REGION, decay=math.nan),
        "decay is a factor in [0, 1], not nan",
    ),
]


@pytest.mark.parametrize(("call", "message"), CASES, ids=[message for _, message in CASES])
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="tensors are on different devices: out on cpu, weight on cuda:0"):
        perturb_into(tensor(), tensor(device="cuda"), D, REGION, 1.0)


def test_nothing_is_written_after_an_error() -> None:
    weight = tensor()
    with pytest.raises(ValueError):
        accumulate_(weight, [(D, 1.0), (D, math.nan)], REGION)
    assert torch.count_nonzero(weight) == 0


def test_empty_regions_are_fine() -> None:
    """A shard of the vocabulary may hold padding alone."""
    region = REGION.row_slice(4, 4)
    direction_into(tensor(0, 6), D, region)
    accumulate_(tensor(0, 6), [(D, 1.0)], region)
    perturb_pair_into(tensor(0, 6), tensor(0, 6), tensor(0, 6), D, region, 1e-3)


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

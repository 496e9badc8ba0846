"""What plans refuse, what they leave alone, and that they work on the tensors' memory."""

import re
import weakref
from collections.abc import Callable

import noise_cases
import numpy as np
import pytest
import torch
from one_tensor import accumulate_, perturb_pair_into

from sglang_mezo_plugin.noise import PairPlan, Region, StepNumbers, UpdatePlan, backends, cuda

REGION = Region.whole("w", (4, 6))
MOVES = [(1, 0.5)]


def tensor(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> torch.Tensor:
    return torch.zeros(shape or (4, 6), dtype=dtype, device=device)


def half() -> torch.Tensor:
    return tensor(dtype=torch.float16)


def pair(*parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> PairPlan:
    return PairPlan([(*part, REGION) for part in parts], "gaussian")


def good(dtype: torch.dtype = torch.float32) -> PairPlan:
    return pair((tensor(), tensor(), tensor(dtype=dtype)))


def update(*weights: torch.Tensor) -> UpdatePlan:
    return UpdatePlan([(weight, REGION, True) for weight in weights], "gaussian")


def overlapping() -> None:
    memory = tensor(6, 6)
    pair((tensor(), tensor(), tensor()), (memory[:4], tensor(), memory[2:]))


ALIKE = "the tensors of a plan must be alike, but are torch.float16 on cpu, torch.float32 on cpu"
CASES: dict[str, tuple[Callable[[], object], str]] = {
    "weights' dtypes": (lambda: update(tensor(), half()), ALIKE),
    "pairs' weights": (
        lambda: pair((tensor(), tensor(), half()), (tensor(), tensor(), tensor())),
        ALIKE,
    ),
    "out_plus": (lambda: pair((half(), tensor(), tensor()), (tensor(), tensor(), tensor())), ALIKE),
    "out_minus": (lambda: pair((tensor(), half(), tensor()), (tensor(), tensor(), tensor())), ALIKE),
    "an empty tensor's": (
        lambda: UpdatePlan(
            [(tensor(), REGION, True), (half()[:0], REGION.row_slice(4, 4), True)], "gaussian"
        ),
        ALIKE,
    ),
    "overlap": (overlapping, "out_plus and weight overlap in memory"),
    "one output": (lambda: pair((*[tensor()] * 2, tensor())), "overlap in memory"),
    "shape": (lambda: update(tensor(), tensor(3, 6)), "weight has shape [3, 6], but its region is 4 x 6"),
    "output's shape": (lambda: pair((tensor(), tensor(4, 5), tensor())), "out_minus has shape [4, 5]"),
    "dtype": (lambda: update(tensor(dtype=torch.float64)), "weight is torch.float64, not one of"),
    "device": (lambda: update(tensor(device="meta")), "weight is on meta"),
    "decays": (
        lambda: PairPlan([(tensor(), tensor(), tensor(), REGION)], "gaussian", [True, False]),
        "zip() argument 2",
    ),
}


@pytest.mark.parametrize(("call", "message"), CASES.values(), ids=CASES)
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_devices_are_refused() -> None:
    message = "must be alike, but are torch.float32 on cpu, torch.float32 on cuda:0"
    with pytest.raises(ValueError, match=message):
        update(tensor(), tensor(device="cuda"))


@pytest.mark.parametrize("shapes", [[], [(0, 6)], [(4, 0), (0, 6)]], ids=str)
def test_nothing_to_do(shapes: list[tuple[int, int]]) -> None:
    """No tensors; no rows or no columns: a shard of the vocabulary may hold padding alone."""
    regions = [Region.whole("w", shape) for shape in shapes]
    plan = PairPlan([(*(tensor(*region_shape(r)) for _ in range(3)), r) for r in regions], "gaussian")
    numbers = StepNumbers.moving("cpu", MOVES, 1)
    plan.write(numbers)
    plan.accumulate_(numbers)
    plan.move_and_write(numbers)
    parts = [(tensor(*region_shape(r)), r, True) for r in regions]
    UpdatePlan(parts, "gaussian").accumulate_(numbers)


def region_shape(region: Region) -> tuple[int, int]:
    return region.rows, region.cols


def test_a_plan_works_on_what_the_tensors_hold_when_it_is_called() -> None:
    """Twice with new weights, by all methods of one plan; without `decays`, decay applies to all."""
    planes = tensor(), tensor(), tensor()
    plan, numbers = pair(planes), StepNumbers("cpu")
    for value in (1.0, -3.0):
        planes[2].fill_(value)
        wanted = [torch.full((4, 6), value) for _ in range(3)]
        for seed in (1, 2):
            numbers.set(seed, 0.1)
            plan.write(numbers)
            perturb_pair_into(*wanted, seed, REGION, 0.1)
            assert_equal(planes, wanted)
        numbers.set(1, 0.1, MOVES, 0, 0.9)
        plan.accumulate_(numbers)
        accumulate_(wanted[2], MOVES, REGION, decay=0.9)
        assert_equal(planes, wanted)
        numbers.set(3, 0.1, [(4, -0.2)], 0, 0.8)
        plan.move_and_write(numbers)
        accumulate_(wanted[2], [(4, -0.2)], REGION, decay=0.8)
        perturb_pair_into(*wanted, 3, REGION, 0.1)
        assert_equal(planes, wanted)


def assert_equal(got: tuple[torch.Tensor, ...], wanted: list[torch.Tensor]) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(noise_cases.bits(one), noise_cases.bits(other))


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_a_plan_keeps_its_memory(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has their addresses alone: what they name must live as long as the plan."""
    if backend == "cuda":
        monkeypatch.setattr(backends, "backend_of", lambda tensor: cuda)
    arrays = [np.zeros((4, 6), np.float32) for _ in range(6)]
    alive = [weakref.ref(array) for array in arrays]
    plan = pair(*(tuple(map(torch.from_numpy, arrays[i : i + 3])) for i in (0, 3)))
    del arrays
    assert [array() is not None for array in alive] == [True] * 6
    del plan
    assert [array() is not None for array in alive] == [False] * 6

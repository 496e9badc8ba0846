"""Steps by numbers in memory, and the same by arguments."""

from collections.abc import Iterator

import noise_cases
import plan_cases
import torch
from noise_cases import DECAY, EPS, ROUNDING_SEED, SEED
from one_tensor import accumulate_, perturb_pair_into

from sglang_mezo_plugin.noise import Moves, StepNumbers, gather_pair_from, gather_pair_into

ROOM = 3
OLD = 2**64 - 1, -1e30, [(2**64 - 1, 1e30)] * ROOM, 2**64 - 1, 0.5  # what no result may have to do with
MOVES = [*noise_cases.MOVES, (2**31, 0.02)]
# By name: moves, decay, and whether the plan is asked to move weights.
STEPS = {
    "no moves": (0, 1.0, True),
    "decay alone": (0, DECAY, True),
    "a move": (1, 1.0, True),
    "as many as there is room for": (ROOM, DECAY, True),
    "moves, not wanted": (2, DECAY, False),
}


def numbers_of(device: str, moves: Moves, decay: float) -> StepNumbers:
    """Return a step's numbers, set over others."""
    numbers = StepNumbers(device, ROOM)
    numbers.set(*OLD)
    numbers.set(SEED, EPS, moves, ROUNDING_SEED, decay)
    return numbers


def run(device: str) -> dict[str, torch.Tensor]:
    """Make each step by numbers in memory that was made for others; the results are on the CPU."""
    results = {}
    for name, (count, decay, wanted) in STEPS.items():
        for group in plan_cases.groups(device):
            numbers, plan = numbers_of(device, MOVES[:count], decay), plan_cases.pair_plan(group)
            plan.move_and_write_from(numbers) if wanted else plan.write_from(numbers)
            results |= group.memory(name)
    numbers = numbers_of(device, MOVES, DECAY)
    for case, weight, rows, (plus, minus) in gathers(device):
        gather_pair_from(numbers, plus, minus, weight, rows, case.region, case.distribution)
        results |= {f"gather-{case.name}/plus": plus.cpu(), f"gather-{case.name}/minus": minus.cpu()}
    return results


def expected() -> dict[str, torch.Tensor]:
    """What `run` must return: by numba, one tensor after the other."""
    results = {}
    for name, (count, decay, wanted) in STEPS.items():
        for group in plan_cases.groups("cpu"):
            for part, planes in zip(group.parts, group.planes, strict=True):
                weight, plus, minus = (place.tensor for place in planes)
                own = decay if part.decays else 1.0
                if wanted and (count or own != 1):
                    taken, z = MOVES[:count], group.distribution
                    accumulate_(weight, taken, part.region, ROUNDING_SEED, own, z)
                perturb_pair_into(plus, minus, weight, SEED, part.region, EPS, group.distribution)
            results |= group.memory(name)
    for case, weight, rows, (plus, minus) in gathers("cpu"):
        gather_pair_into(plus, minus, weight, rows, case.region, case.distribution, SEED, EPS)
        results |= {f"gather-{case.name}/plus": plus, f"gather-{case.name}/minus": minus}
    return results


def gathers(
    device: str,
) -> Iterator[tuple[noise_cases.Case, torch.Tensor, torch.Tensor, list[torch.Tensor]]]:
    """Yield each case, with a weight, the rows to gather, and where to."""
    for case in noise_cases.cases():
        weight = noise_cases.weights(case.region, case.dtype).to(device)
        rows = noise_cases.rows_of(case.region).to(device)
        outs = [weight.new_full((len(rows), case.region.cols), torch.nan) for _ in range(2)]
        yield case, weight, rows, outs

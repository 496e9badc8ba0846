"""Steps of several kinds by one plan, and the same by one tensor after the other."""

import noise_cases
import plan_cases
import torch
from noise_cases import DECAY, EPS, ROUNDING_SEED, SEED
from one_tensor import accumulate_, perturb_pair_into

from sglang_mezo_plugin.noise import Moves, StepNumbers

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
    """Make each step by numbers that were set to others before; the results are on the CPU."""
    results = {}
    for name, (count, decay, wanted) in STEPS.items():
        for group in plan_cases.groups(device):
            numbers, plan = numbers_of(device, MOVES[:count], decay), plan_cases.pair_plan(group)
            plan.move_and_write(numbers) if wanted else plan.write(numbers)
            results |= group.memory(name)
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
    return results

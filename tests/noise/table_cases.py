"""Steps by the numbers of a table, and the same by arguments."""

from collections.abc import Iterator

import noise_cases
import plan_cases
import torch
from noise_cases import DECAY, EPS, ROUNDING_SEED, SEED

from sglang_mezo_plugin.noise import (
    Direction,
    StepTable,
    accumulate_,
    gather_pair_from,
    gather_pair_into,
    perturb_pair_into,
)

ROOM = 3
OLD = Direction(2**64 - 1), -1e30, 2**64 - 1, 0.5  # what no result may have to do with
# By name: moves, decay, and whether the plan is asked to move weights.
STEPS = {
    "no moves": (0, 1.0, True),
    "decay alone": (0, DECAY, True),
    "a move": (1, 1.0, True),
    "as many as there is room for": (ROOM, DECAY, True),
    "moves, not wanted": (2, DECAY, False),
}


def moves(distribution: str, count: int) -> list[tuple[Direction, float]]:
    return [*noise_cases.moves(distribution), (Direction(2**31, distribution), 0.02)][:count]


def set_to(table: StepTable, moves: list[tuple[Direction, float]], decay: float) -> None:
    """Set a table, over numbers that are all others."""
    old, eps, rounding_seed, decayed = OLD
    old = Direction(old.seed, table.distribution)
    table.set(old, eps, [(old, 1e30)] * ROOM, rounding_seed, decayed)
    table.set(Direction(SEED, table.distribution), EPS, moves, ROUNDING_SEED, decay)


def run(device: str) -> dict[str, torch.Tensor]:
    """Make each step by a table that was made for others; the results are on the CPU."""
    results = {}
    for name, (count, decay, wanted) in STEPS.items():
        for group in plan_cases.groups(device):
            table, plan = StepTable(device, group.distribution, ROOM), plan_cases.pair_plan(group)
            set_to(table, moves(group.distribution, count), decay)
            plan.move_and_write_from(table) if wanted else plan.write_from(table)
            results |= group.memory(name)
    for name, table, weight, (plus, minus), rows, region in gathers(device):
        gather_pair_from(table, plus, minus, weight, rows, region)
        results |= {f"{name}/plus": plus.cpu(), f"{name}/minus": minus.cpu()}
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
                    taken = moves(group.distribution, count)
                    accumulate_(weight, taken, part.region, ROUNDING_SEED, own)
                direction = Direction(SEED, group.distribution)
                perturb_pair_into(plus, minus, weight, direction, part.region, EPS)
            results |= group.memory(name)
    for name, table, weight, (plus, minus), rows, region in gathers("cpu"):
        gather_pair_into(plus, minus, weight, rows, Direction(SEED, table.distribution), region, EPS)
        results |= {f"{name}/plus": plus, f"{name}/minus": minus}
    return results


def gathers(
    device: str,
) -> Iterator[tuple[str, StepTable, torch.Tensor, list[torch.Tensor], torch.Tensor, noise_cases.Region]]:
    for case in noise_cases.cases():
        weight = noise_cases.weights(case.region, case.dtype).to(device)
        rows = noise_cases.rows_of(case.region).to(device)
        outs = [weight.new_full((len(rows), case.region.cols), torch.nan) for _ in range(2)]
        table = StepTable(device, case.distribution, ROOM)
        set_to(table, moves(case.distribution, ROOM), DECAY)
        yield f"gather-{case.name}", table, weight, outs, rows, case.region

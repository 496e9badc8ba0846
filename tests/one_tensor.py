"""The noise on single tensors: plans of one part each."""

import torch

from sglang_mezo_plugin.noise import Distribution, Moves, PairPlan, Region, StepNumbers, UpdatePlan


def perturb_pair_into(
    plus: torch.Tensor,
    minus: torch.Tensor,
    weight: torch.Tensor,
    seed: int,
    region: Region,
    eps: float,
    distribution: Distribution = "gaussian",
) -> None:
    """Set plus to weight + eps * z and minus to weight - eps * z."""
    numbers = StepNumbers(weight.device, room=0)
    numbers.set(seed, eps)
    PairPlan([(plus, minus, weight, region)], distribution).write(numbers)


def perturb_into(
    out: torch.Tensor,
    weight: torch.Tensor,
    seed: int,
    region: Region,
    coefficient: float,
    distribution: Distribution = "gaussian",
) -> None:
    """Set out to weight + coefficient * z."""
    perturb_pair_into(out, torch.empty_like(out), weight, seed, region, coefficient, distribution)


def direction_into(
    out: torch.Tensor, seed: int, region: Region, distribution: Distribution = "gaussian"
) -> None:
    """Set out to z."""
    perturb_into(out, torch.zeros_like(out), seed, region, 1.0, distribution)


def accumulate_(
    weight: torch.Tensor,
    moves: Moves,
    region: Region,
    rounding_seed: int = 0,
    decay: float = 1.0,
    distribution: Distribution = "gaussian",
) -> None:
    """Set weight to decay * weight + sum(c * z for (seed of z, c) in moves)."""
    numbers = StepNumbers.moving(weight.device, moves, rounding_seed, decay)
    UpdatePlan([(weight, region, True)], distribution).accumulate_(numbers)

"""Where weights are probed: at a point whose numbers the host has, or at one whose numbers are in memory.

A graph launches again what was launched when it was captured, with the same arguments. So all numbers of what
it is to do at another point, and after another step, are in `StepNumbers`.
"""

from __future__ import annotations

from typing import Protocol

import torch

from sglang_mezo_plugin.engine.dense.weights import Perturbed
from sglang_mezo_plugin.noise import (
    Distribution,
    PairPlan,
    Region,
    StepNumbers,
    gather_pair_from,
    gather_pair_into,
)


class Probe(Protocol):
    """One forward's direction and eps."""

    def write(self, weights: Perturbed) -> None:
        """Let weights take the step that waits for them, then write them at + and at -."""
        ...

    def write_block(self, plan: PairPlan) -> None:
        """Write weights that no step waits for."""
        ...

    def gather(
        self,
        plus: torch.Tensor,
        minus: torch.Tensor,
        weight: torch.Tensor,
        rows: torch.Tensor,
        region: Region,
        distribution: Distribution,
    ) -> None:
        """Write rows of such weights, as `gather_pair_into` does."""
        ...


class PointProbe:
    """A point by its numbers."""

    def __init__(self, seed: int, eps: float) -> None:
        self._seed, self._eps = seed, eps

    def write(self, weights: Perturbed) -> None:
        weights.write(self._seed, self._eps)

    def write_block(self, plan: PairPlan) -> None:
        plan.write(self._seed, self._eps)

    def gather(
        self,
        plus: torch.Tensor,
        minus: torch.Tensor,
        weight: torch.Tensor,
        rows: torch.Tensor,
        region: Region,
        distribution: Distribution,
    ) -> None:
        gather_pair_into(plus, minus, weight, rows, region, distribution, self._seed, self._eps)


class MemoryProbe:
    """A point by numbers in memory, which also say what step weights are to take: each of them once.

    moved: the weights that have taken it, in their order.
    """

    def __init__(self, numbers: StepNumbers) -> None:
        self._numbers = numbers
        self.moved: list[Perturbed] = []

    def write(self, weights: Perturbed) -> None:
        weights.write_from(self._numbers, moves=weights not in self.moved)
        if weights not in self.moved:
            self.moved.append(weights)

    def write_block(self, plan: PairPlan) -> None:
        plan.write_from(self._numbers)

    def gather(
        self,
        plus: torch.Tensor,
        minus: torch.Tensor,
        weight: torch.Tensor,
        rows: torch.Tensor,
        region: Region,
        distribution: Distribution,
    ) -> None:
        gather_pair_from(self._numbers, plus, minus, weight, rows, region, distribution)

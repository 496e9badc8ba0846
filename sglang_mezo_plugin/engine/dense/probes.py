"""Where weights are probed: by a step's numbers in memory.

A graph launches again what was launched when it was captured, with the same arguments. So all numbers of what
it is to do at another point, and after another step, are there.
"""

from __future__ import annotations

import torch

from sglang_mezo_plugin.engine.dense.weights import Perturbed
from sglang_mezo_plugin.noise import Distribution, PairPlan, Region, StepNumbers, gather_pair_into


class Probe:
    """One forward's direction and eps, and the step that weights are to take before, if they wait for it."""

    def __init__(self, numbers: StepNumbers) -> None:
        self._numbers = numbers

    def write(self, weights: Perturbed) -> None:
        """Let weights take the step that waits for them, then write them at + and at -."""
        weights.write(self._numbers, moves=weights.waiting is not None)
        weights.taken()

    def write_block(self, plan: PairPlan) -> None:
        """Write weights that no step waits for."""
        plan.write(self._numbers)

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
        gather_pair_into(plus, minus, weight, rows, region, distribution, self._numbers)


class CapturedProbe(Probe):
    """A probe of a forward that a graph runs again: weights take the step, whichever it then is, once each.

    moved: the weights that have taken it, in their order. What waits there goes on waiting: whoever puts it
    into memory says so by `taken`.
    """

    def __init__(self, numbers: StepNumbers) -> None:
        super().__init__(numbers)
        self.moved: list[Perturbed] = []

    def write(self, weights: Perturbed) -> None:
        weights.write(self._numbers, moves=weights not in self.moved)
        if weights not in self.moved:
            self.moved.append(weights)

"""A model small enough to compute by hand: a quadratic in ten dimensions, as a carrier."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from one_tensor import direction_into

from sglang_mezo_plugin.noise import Distribution, Moves, Region, StepNumbers, UpdatePlan
from sglang_mezo_plugin.tasks.example import Batch, Example
from sglang_mezo_plugin.training.objectives import Scores

CURVATURE = torch.arange(1, 11, dtype=torch.float64)
EXAMPLES = [Example(prompt=(target,), options=((0,),), label=0) for target in (1, 2, 3, 5, 8)]


class Quadratic:
    """An example's loss is sum(CURVATURE * (theta - target)**2) / 2, in fp64; its prompt is the target.

    theta: fp32, a matrix "w" of eight elements and a bias "b" of two. The loss is minus the log-probability
    of the only token, so the objective is `losses.completion`.
    """

    def __init__(self, distribution: Distribution = "gaussian") -> None:
        self.distribution = distribution
        theta = torch.arange(10, dtype=torch.float32) / 4
        self.theta = {"w": theta[:8].clone().view(2, 4), "b": theta[8:].clone()}
        self.regions = {name: Region.whole(name, tensor.shape) for name, tensor in self.theta.items()}

    def score_pairs(self, batch: Batch, seeds: Sequence[int], eps: float) -> list[tuple[Scores, Scores]]:
        return [
            (self._score(batch, eps * self.z(seed)), self._score(batch, -eps * self.z(seed)))
            for seed in seeds
        ]

    def score(self, batch: Batch) -> Scores:
        return self._score(batch, torch.zeros(10, dtype=torch.float64))

    def step(self, moves: Moves, decay: float, rounding_seed: int) -> None:
        parts = [(tensor, self.regions[name], tensor.dim() > 1) for name, tensor in self.theta.items()]
        UpdatePlan(parts, self.distribution).accumulate_(
            StepNumbers.moving("cpu", moves, rounding_seed, decay)
        )

    def parameters(self) -> Mapping[str, tuple[torch.Tensor, Region]]:
        return {name: (tensor, self.regions[name]) for name, tensor in self.theta.items()}

    def written(self) -> None:
        pass

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "theta").write_bytes(self.bits())

    def z(self, seed: int) -> torch.Tensor:
        """A direction on all of theta, [10], fp64."""
        parts = {name: torch.empty_like(tensor) for name, tensor in self.theta.items()}
        for name, part in parts.items():
            direction_into(part, seed, self.regions[name], self.distribution)
        return self.flat(parts)

    def flat(self, parts: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        return torch.cat([part.flatten().double() for part in (parts or self.theta).values()])

    def bits(self) -> bytes:
        """Theta, to be compared exactly."""
        return b"".join(tensor.numpy().tobytes() for tensor in self.theta.values())

    @staticmethod
    def loss(theta: torch.Tensor, example: Example) -> float:
        """An example's loss at theta: [10], fp64."""
        return float((CURVATURE * (theta - example.prompt[0]) ** 2).sum()) / 2

    def _score(self, batch: Batch, offset: torch.Tensor) -> list[list[np.ndarray]]:
        theta = self.flat() + offset
        return [[np.array([-self.loss(theta, example)])] for example in batch.examples]

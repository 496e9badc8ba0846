"""What one rank does of a run: its part of the forwards, of the steps and of what is saved."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from sglang.srt.model_executor.model_runner import ModelRunner

from sglang_mezo_plugin.engine.dense.placement import Pieces, held, locate
from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.models.checkpoint import tensor_shapes
from sglang_mezo_plugin.noise import Moves, Region
from sglang_mezo_plugin.tasks.example import Batch
from sglang_mezo_plugin.training.objectives import Scores
from sglang_mezo_plugin.training.optimizers import Grads, Optimizer

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Point = tuple[int, float]
"""theta + c z, by the seed of z and c."""


class Share:
    """What one rank does of a run, rank 0 included: each method is something that it may be told.

    checkpoint: the folder that the model was loaded from.
    """

    def __init__(self, runner: ModelRunner, carrier: FrozenCarrier, checkpoint: Path) -> None:
        self.carrier = carrier
        self.checkpoint = checkpoint
        self._model = runner.model
        self.adapted = runner.lora_manager is not None
        self._optimizer: Optimizer | None = None
        self._pieces: Pieces | None = None

    def score(self, batch: Batch) -> Scores:
        return self.carrier.score(batch)

    def score_pairs(self, batch: Batch, seeds: Sequence[int], eps: float) -> list[tuple[Scores, Scores]]:
        return self.carrier.score_pairs(batch, seeds, eps)

    def score_points(self, batch: Batch, points: Sequence[Point]) -> list[Scores]:
        return [self.carrier.score_at(batch, seed, coefficient) for seed, coefficient in points]

    def attach(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        optimizer.attach(self.carrier)

    def update(self, grads: Grads, learning_rate: float, step: int) -> None:
        self._optimizer.update(grads, learning_rate, step)

    def step(self, moves: Moves, decay: float, rounding_seed: int) -> None:
        self.carrier.step(moves, decay, rounding_seed)

    def checksum(self) -> int:
        """Return a number that is the same for the same bits of what is trained."""
        self.carrier.settle()
        if self.adapted:
            tensors = [tensor for tensor, _ in self.carrier.parameters().values()]
        else:
            tensors = [parameter.data for parameter in self._model.parameters()]
        return hash(tuple(int(_bits(tensor).sum(dtype=torch.int64)) for tensor in tensors))

    def held(self, name: str) -> list[tuple[Region, torch.Tensor]]:
        """Return what this rank holds of a checkpoint's tensor: each region's [rows, cols], on the CPU."""
        self.carrier.settle()
        if self._pieces is None:
            self._pieces = locate(self._model, tensor_shapes(self.checkpoint))
        return [(region, values.cpu()) for region, values in held(self._pieces, name)]


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(BITS[tensor.element_size()])

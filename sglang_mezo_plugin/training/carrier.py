"""The one interface between training and engine: parameters that can be evaluated at theta +- eps z."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch

from sglang_mezo_plugin.noise import Distribution, Moves, Region
from sglang_mezo_plugin.tasks.example import Batch
from sglang_mezo_plugin.training.objectives import Scores


class Trainable(Protocol):
    """Parameters theta that an optimizer moves.

    distribution: of all directions. A direction z is its seed.
    """

    distribution: Distribution

    def step(self, moves: Moves, decay: float, rounding_seed: int) -> None:
        """Set theta to decay * theta + sum(c * z for (seed of z, c) in moves).

        Decay spares biases and norms: parameters of one dimension. rounding_seed: for the stochastic rounding
        of 16-bit parameters, another one each step.
        """
        ...

    def parameters(self) -> Mapping[str, tuple[torch.Tensor, Region]]:
        """Return the fp32 parameters by name, to be changed in place; followed by `written`.

        Raises UserError for a carrier that keeps none (full-parameter training).
        """
        ...

    def written(self) -> None:
        """Note that `parameters` were changed."""
        ...

    def save(self, folder: Path) -> None:
        """Write theta as a PEFT adapter, or as a Hugging Face checkpoint."""
        ...


class Carrier(Trainable, Protocol):
    """Trainable parameters theta that an engine evaluates without ever moving them while it probes."""

    def score_pairs(self, batch: Batch, seeds: Sequence[int], eps: float) -> list[tuple[Scores, Scores]]:
        """Score a batch at theta + eps z and at theta - eps z, for the direction z of each seed."""
        ...

    def score(self, batch: Batch) -> Scores:
        """Score a batch at theta itself."""
        ...

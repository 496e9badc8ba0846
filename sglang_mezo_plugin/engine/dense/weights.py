"""A module's weights at W + eps z and at W - eps z, in buffers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from sglang_mezo_plugin.engine.dense.placement import Pieces
from sglang_mezo_plugin.noise import Distribution, Moves, PairPlan, Region, StepNumbers

ALIGNMENT = 256  # bytes, as an allocator would have it


class Update(NamedTuple):
    """A step that weights are to take: the arguments of `carrier.Carrier.step`, and the same in memory."""

    moves: Moves
    decay: float
    rounding_seed: int
    numbers: StepNumbers


class Perturbed:
    """Several parameters, and their values at + and at - in two buffers of bytes.

    A step that they are to take waits until they are perturbed next: the weights are then read, and their
    noise made, in one pass for both. The bits are the same as without waiting.

    plus, minus: tensors of the parameters' shapes and strides, in their order.
    """

    def __init__(
        self,
        parameters: Sequence[torch.nn.Parameter],
        pieces: Pieces,
        buffers: tuple[torch.Tensor, torch.Tensor],
        distribution: Distribution,
    ) -> None:
        self.parameters = parameters
        self.plus, self.minus = ([*_views(parameters, buffer)] for buffer in buffers)
        self._padded = []
        parts: dict[torch.dtype, list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, Region]]] = {}
        decays: dict[torch.dtype, list[bool]] = {}
        for parameter, plus, minus in zip(parameters, self.plus, self.minus, strict=True):
            own = pieces[parameter]
            parts.setdefault(parameter.dtype, []).extend(
                (piece.of(plus), piece.of(minus), piece.of(parameter.data), piece.region) for piece in own
            )
            decays.setdefault(parameter.dtype, []).extend(piece.decays for piece in own)
            if sum(piece.region.rows * piece.region.cols for piece in own) < parameter.numel():
                self._padded.append((parameter.data, plus, minus))
        self._plans = [PairPlan(parts[dtype], distribution, decays[dtype]) for dtype in parts]
        self._waiting: Update | None = None

    def write(self, numbers: StepNumbers, moves: bool) -> None:
        """Write `plus` and `minus`; before that, if `moves`, take the step that the numbers say."""
        for weight, plus, minus in self._padded:
            plus.copy_(weight)
            minus.copy_(weight)
        for plan in self._plans:
            if moves:
                plan.move_and_write(numbers)
            else:
                plan.write(numbers)

    @property
    def waiting(self) -> Update | None:
        """The step that waits, if any."""
        return self._waiting

    def taken(self) -> None:
        """Note that the step that waits, if any, is taken by numbers in memory."""
        self._waiting = None

    def wait(self, update: Update) -> None:
        """Let a step wait, after taking one that waits already."""
        self.settle()
        self._waiting = update

    def settle(self) -> None:
        """Take the step that waits, if any."""
        update, self._waiting = self._waiting, None
        if update is not None:
            for plan in self._plans:
                plan.accumulate_(update.numbers)


def bytes_of(parameters: Sequence[torch.Tensor]) -> int:
    """Return the size of a buffer for some parameters."""
    return sum(-(-p.numel() * p.element_size() // ALIGNMENT) * ALIGNMENT for p in parameters)


def _views(parameters: Sequence[torch.Tensor], buffer: torch.Tensor) -> list[torch.Tensor]:
    views, offset = [], 0
    for parameter in parameters:
        flat = buffer[offset : offset + parameter.numel() * parameter.element_size()].view(parameter.dtype)
        views.append(flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset()))
        offset += bytes_of([parameter])
    return views

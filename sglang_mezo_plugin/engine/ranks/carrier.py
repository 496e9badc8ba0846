"""What each rank does, and how rank 0 deals work out to the replicas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from sglang.srt.model_executor.model_runner import ModelRunner

from sglang_mezo_plugin.engine.dense.placement import Pieces, locate
from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.engine.ranks.leader import Ranks
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import tensor_shapes, write_checkpoint
from sglang_mezo_plugin.noise import Direction, Region
from sglang_mezo_plugin.tasks.example import Batch
from sglang_mezo_plugin.training.objectives import Scores
from sglang_mezo_plugin.training.optimizers import Grads, Optimizer

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
Point = tuple[Direction, float]
"""theta + c z, by z and c."""


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

    def score_pairs(
        self, batch: Batch, directions: Sequence[Direction], eps: float
    ) -> list[tuple[Scores, Scores]]:
        return self.carrier.score_pairs(batch, directions, eps)

    def score_points(self, batch: Batch, points: Sequence[Point]) -> list[Scores]:
        return [self.carrier.score_at(batch, direction, coefficient) for direction, coefficient in points]

    def attach(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        optimizer.attach(self.carrier)

    def update(self, grads: Grads, learning_rate: float, step: int) -> None:
        self._optimizer.update(grads, learning_rate, step)

    def step(self, moves: Sequence[tuple[Direction, float]], decay: float, rounding_seed: int) -> None:
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
        return [
            (region, piece.of(parameter.data).reshape(region.rows, region.cols).cpu())
            for parameter, pieces in self._pieces.items()
            for piece in pieces
            if piece.name == name
            for region in [piece.region]
        ]


class RankedCarrier:
    """A carrier whose work several ranks share, as rank 0 has it. Implements `carrier.Carrier`, but for
    `parameters`: momentum and Adam are each rank's own, see `RankedOptimizer`.
    """

    def __init__(self, share: Share, ranks: Ranks) -> None:
        self._share = share
        self._ranks = ranks
        self._layout = ranks.layout

    @property
    def names(self) -> list[str]:
        return self._share.carrier.names

    @property
    def hit_rate(self) -> float:
        """The share of the tokens of this rank's batches that were shared with others, in [0, 1)."""
        return self._share.carrier.hit_rate

    def score_pairs(
        self, batch: Batch, directions: Sequence[Direction], eps: float
    ) -> list[tuple[Scores, Scores]]:
        """Deal pairs out to the replicas, or, where there are fewer pairs than replicas, signs."""
        count = self._layout.dp_size
        if len(directions) >= count:
            shares = [directions[replica::count] for replica in range(count)]
            found = self._on_replicas("score_pairs", [(batch, share, eps) for share in shares])
            return _undeal(found, len(directions))
        points = [(direction, sign * eps) for direction in directions for sign in (1, -1)]
        shares = [points[replica::count] for replica in range(count)]
        scores = _undeal(
            self._on_replicas("score_points", [(batch, share) for share in shares if share]), len(points)
        )
        return list(zip(scores[::2], scores[1::2], strict=True))

    def score(self, batch: Batch) -> Scores:
        return self._on_replicas("score", [(batch,)])[0]

    def score_all(self, batches: Sequence[Batch]) -> Iterator[Scores]:
        """Score batches at theta, as many at a time as there are replicas."""
        self.check_replicas()
        count = self._layout.dp_size
        for start in range(0, len(batches), count):
            yield from self._on_replicas("score", [(batch,) for batch in batches[start : start + count]])

    def step(self, moves: Sequence[tuple[Direction, float]], decay: float, rounding_seed: int) -> None:
        self.everywhere("step", moves, decay, rounding_seed)

    def everywhere(self, action: str, *args: Any) -> None:
        """Let each rank do the same, by the name of a method of `Share`."""
        self._ranks.tell(range(1, self._layout.size), (action, args, False))
        getattr(self._share, action)(*args)

    def save(self, folder: Path) -> None:
        self.check_replicas()
        if self._layout.tp_size == 1 or self._share.adapted:
            self._share.carrier.save(folder)
        else:
            write_checkpoint(folder, self._share.checkpoint, self._gathered())

    def check_replicas(self) -> None:
        """Raise UserError if ranks that should have the same weights do not."""
        tp_size, others = self._layout.tp_size, range(1, self._layout.size)
        self._ranks.tell(others, ("checksum", (), True))
        sums = [self._share.checksum(), *(self._ranks.hear(rank) for rank in others)]
        for rank in others:
            if sums[rank] != sums[rank % tp_size]:
                raise UserError(
                    f"the weights of rank {rank} are not those of rank {rank % tp_size}: look for an error "
                    "of the hardware, and start the command again, with --resume"
                )

    def _on_replicas(self, action: str, shares: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Let replica i do its share i, all at the same time; return what each has found."""
        for number, args in enumerate(shares):
            first, *others = self._layout.replica(number)
            self._ranks.tell(others, (action, args, False))
            if first:
                self._ranks.tell([first], (action, args, True))
        own = getattr(self._share, action)(*shares[0])
        firsts = [self._layout.replica(number)[0] for number in range(1, len(shares))]
        return [own, *(self._ranks.hear(first) for first in firsts)]

    def _gathered(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the checkpoint's tensors, put together from all shards of the first replica."""
        shapes = tensor_shapes(self._share.checkpoint)
        for name in self.names:
            parts = self._share.held(name)
            if sum(region.rows * region.cols for region, _ in parts) < shapes[name].numel():
                others = self._layout.replica(0)[1:]
                self._ranks.tell(others, ("held", (name,), True))
                parts.extend(part for rank in others for part in self._ranks.hear(rank))
            yield name, _joined(shapes[name], parts)


class RankedOptimizer:
    """An optimizer of which every rank has a copy, with state of its own: the same everywhere."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def attach(self, carrier: RankedCarrier) -> None:
        self._carrier = carrier
        carrier.everywhere("attach", copy(self._optimizer))

    def update(self, grads: Grads, learning_rate: float, step: int) -> None:
        self._carrier.everywhere("update", grads, learning_rate, step)


def _undeal(shares: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """Return what was dealt out one by one, in its order."""
    return [shares[i % len(shares)][i // len(shares)] for i in range(count)]


def _joined(shape: torch.Size, parts: Sequence[tuple[Region, torch.Tensor]]) -> torch.Tensor:
    whole = torch.empty(shape, dtype=parts[0][1].dtype)
    for region, values in parts:
        target = whole.as_strided((region.rows, region.cols), (region.row_stride, 1), region.offset)
        target.copy_(values)
    return whole


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(BITS[tensor.element_size()])

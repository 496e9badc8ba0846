"""A run on several ranks as rank 0 has it: one carrier and one optimizer, which deal work out to all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch

from sglang_mezo_plugin.engine.dense.placement import joined
from sglang_mezo_plugin.engine.ranks.leader import Ranks
from sglang_mezo_plugin.engine.ranks.share import Share
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import tensor_shapes
from sglang_mezo_plugin.models.writing import write_checkpoint
from sglang_mezo_plugin.noise import Moves
from sglang_mezo_plugin.tasks.example import Batch
from sglang_mezo_plugin.training.objectives import Scores
from sglang_mezo_plugin.training.optimizers import Grads, Optimizer


class RankedCarrier:
    """A carrier whose work several ranks share, as rank 0 has it. Implements `carrier.Carrier`, but for
    `parameters` and `distribution`: momentum and Adam are each rank's own, see `RankedOptimizer`.
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
        """The fraction of the tokens of this rank's batches that were reused from others, in [0, 1)."""
        return self._share.carrier.hit_rate

    def score_pairs(self, batch: Batch, seeds: Sequence[int], eps: float) -> list[tuple[Scores, Scores]]:
        """Deal pairs out to the replicas, or, where there are fewer pairs than replicas, signs."""
        count = self._layout.dp_size
        if len(seeds) >= count:
            hands = [seeds[replica::count] for replica in range(count)]
            found = self._on_replicas("score_pairs", [(batch, hand, eps) for hand in hands])
            return _undealt(found, len(seeds))
        points = [(seed, sign * eps) for seed in seeds for sign in (1, -1)]
        hands = [points[replica::count] for replica in range(count)]
        found = self._on_replicas("score_points", [(batch, hand) for hand in hands if hand])
        scores = _undealt(found, len(points))
        return list(zip(scores[::2], scores[1::2], strict=True))

    def score(self, batch: Batch) -> Scores:
        return self._on_replicas("score", [(batch,)])[0]

    def score_all(self, batches: Sequence[Batch]) -> Iterator[Scores]:
        """Score batches at theta, as many at a time as there are replicas."""
        self.check_replicas()
        count = self._layout.dp_size
        for start in range(0, len(batches), count):
            yield from self._on_replicas("score", [(batch,) for batch in batches[start : start + count]])

    def step(self, moves: Moves, decay: float, rounding_seed: int) -> None:
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
            sizes = dict(sorted(self._share.carrier.sizes.items()))
            write_checkpoint(folder, self._share.checkpoint, sizes, self._gathered())

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

    def _on_replicas(self, action: str, hands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Let replica i do an action with hands[i], all at the same time; return what each has found."""
        for number, args in enumerate(hands):
            first, *others = self._layout.replica(number)
            self._ranks.tell(others, (action, args, False))
            if first:
                self._ranks.tell([first], (action, args, True))
        own = getattr(self._share, action)(*hands[0])
        firsts = [self._layout.replica(number)[0] for number in range(1, len(hands))]
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
            yield name, joined(shapes[name], parts)


class RankedOptimizer:
    """An optimizer of which every rank has a copy, with state of its own: the same everywhere."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def attach(self, carrier: RankedCarrier) -> None:
        self._carrier = carrier
        carrier.everywhere("attach", copy(self._optimizer))

    def update(self, grads: Grads, learning_rate: float, step: int) -> None:
        self._carrier.everywhere("update", grads, learning_rate, step)


def _undealt(hands: Sequence[Sequence[Any]], count: int) -> list[Any]:
    """Return what was dealt out one by one, in its order."""
    return [hands[i % len(hands)][i // len(hands)] for i in range(count)]

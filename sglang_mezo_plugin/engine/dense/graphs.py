"""Graphs for full training: a graph moves weights and perturbs them by the numbers of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch

from sglang_mezo_plugin.engine.batch.builder import BatchBuilder, LabelledBatch
from sglang_mezo_plugin.engine.dense.probes import Probe, TableProbe
from sglang_mezo_plugin.engine.dense.weights import Perturbed, Update
from sglang_mezo_plugin.engine.graphs import Capture, Forward, GraphScorer
from sglang_mezo_plugin.noise import Direction, Distribution, StepTable
from sglang_mezo_plugin.tasks.example import Example
from sglang_mezo_plugin.training.objectives import Scores

ProbedForward = Callable[[LabelledBatch, Probe], torch.Tensor]


class DenseGraphs:
    """Scores batches by graphs: at W + eps z and at W - eps z, or, as one copy, at + alone.

    forward: runs the model on a batch at a probe; returns fp32 [copies, N] on the device.
    """

    def __init__(self, builder: BatchBuilder, forward: ProbedForward, capture: Capture) -> None:
        self._builder, self._forward, self._capture = builder, forward, capture
        self._graphs: dict[Distribution, _Graphs] = {}

    @property
    def captures(self) -> int:
        """How often a graph was captured."""
        return sum(graphs.scorer.captures for graphs in self._graphs.values())

    @property
    def replays(self) -> int:
        """How many forwards graphs have run."""
        return sum(graphs.scorer.replays for graphs in self._graphs.values())

    def score(
        self, examples: Sequence[Example], copies: int, directions: Sequence[Direction], eps: float
    ) -> list[list[Scores]]:
        """Score `copies` copies of the examples, for each direction."""
        scores = []
        for distribution, group in groupby(directions, lambda direction: direction.distribution):
            if distribution not in self._graphs:
                table = StepTable(self._builder.device, distribution)
                self._graphs[distribution] = _Graphs(table, self._builder, self._forward, self._capture)
            scores += self._graphs[distribution].score(examples, copies, [*group], eps)
        return scores


class _Graphs:
    """Those of one distribution, for which kernels are compiled."""

    def __init__(
        self, table: StepTable, builder: BatchBuilder, forward: ProbedForward, capture: Capture
    ) -> None:
        self._table, self._forward, self._capture = table, forward, capture
        self.scorer = GraphScorer(builder, self._forward_from_table, self._capture_at_rest)
        self._probe = TableProbe(table)
        self._point = Direction(0, table.distribution), 0.0

    def score(
        self, examples: Sequence[Example], copies: int, directions: Sequence[Direction], eps: float
    ) -> list[list[Scores]]:
        replay = self.scorer.load(examples, copies)
        scores = []
        for direction in directions:
            self._point = direction, eps
            scores.append(replay())
        return scores

    def _forward_from_table(self, batch: LabelledBatch) -> torch.Tensor:
        self._probe = TableProbe(self._table)
        return self._forward(batch, self._probe)

    def _capture_at_rest(self, forward: Forward) -> Forward:
        """Capture a forward while the table has no step; return what replays it with the one that waits.

        Those weights take it that the captured forward moves. The others go on waiting.
        """
        self._table.set(Direction(0, self._table.distribution), 0.0)
        replay = self._capture(forward)
        moved = tuple(self._probe.moved)

        def replay_after_step() -> torch.Tensor:
            update = _common_step(moved, self._table)
            if update is None:
                self._table.set(*self._point)
            else:
                self._table.set(*self._point, update.moves, update.rounding_seed, update.decay)
            for weights in moved:
                weights.taken()
            return replay()

        return replay_after_step


def _common_step(moved: Sequence[Perturbed], table: StepTable) -> Update | None:
    """Return the step that some weights wait to take, if a table can hold it; otherwise let them take it."""
    steps = [weights.waiting for weights in moved]
    first = steps[0]
    if first is not None and table.fits(first.moves) and all(step is first for step in steps):
        return first
    for weights in moved:
        weights.settle()
    return None

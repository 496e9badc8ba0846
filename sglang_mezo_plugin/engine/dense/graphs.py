"""Graphs for full training: a graph moves weights and perturbs them by numbers in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from sglang_mezo_plugin.engine.batch.builder import BatchBuilder, LabelledBatch
from sglang_mezo_plugin.engine.dense.probes import CapturedProbe, Probe
from sglang_mezo_plugin.engine.dense.weights import Perturbed, Update
from sglang_mezo_plugin.engine.graphs import Capture, Forward, GraphScorer
from sglang_mezo_plugin.noise import StepNumbers
from sglang_mezo_plugin.tasks.example import Example
from sglang_mezo_plugin.training.objectives import Scores

ProbedForward = Callable[[LabelledBatch, Probe], torch.Tensor]


class DenseGraphs:
    """Scores batches by graphs: at W + eps z and at W - eps z, or, as one copy, at + alone.

    forward: runs the model on a batch at a probe; returns fp32 [copies, N] on the device. numbers: where a
    graph reads what is to be done.
    """

    def __init__(
        self, builder: BatchBuilder, forward: ProbedForward, capture: Capture, numbers: StepNumbers
    ) -> None:
        self._forward, self._capture, self._numbers = forward, capture, numbers
        self._scorer = GraphScorer(builder, self._forward_from_memory, self._capture_at_rest)
        self._probe = CapturedProbe(self._numbers)
        self._point = 0, 0.0

    @property
    def captures(self) -> int:
        """How often a graph was captured."""
        return self._scorer.captures

    @property
    def replays(self) -> int:
        """How many forwards graphs have run."""
        return self._scorer.replays

    def score(
        self, examples: Sequence[Example], copies: int, seeds: Sequence[int], eps: float
    ) -> list[list[Scores]]:
        """Score `copies` copies of the examples, for the direction of each seed."""
        replay = self._scorer.load(examples, copies)
        scores = []
        for seed in seeds:
            self._point = seed, eps
            scores.append(replay())
        return scores

    def _forward_from_memory(self, batch: LabelledBatch) -> torch.Tensor:
        self._probe = CapturedProbe(self._numbers)
        return self._forward(batch, self._probe)

    def _capture_at_rest(self, forward: Forward) -> Forward:
        """Capture a forward while there is no step in memory; return what replays it with the one that waits.

        Those weights take it that the captured forward moves. The others go on waiting.
        """
        self._numbers.set(0, 0.0)
        replay = self._capture(forward)
        moved = tuple(self._probe.moved)

        def replay_after_step() -> torch.Tensor:
            update = _common_step(moved, self._numbers.room)
            if update is None:
                self._numbers.set(*self._point)
            else:
                self._numbers.set(*self._point, update.moves, update.rounding_seed, update.decay)
            for weights in moved:
                weights.taken()
            return replay()

        return replay_after_step


def _common_step(moved: Sequence[Perturbed], room: int) -> Update | None:
    """Return the step that some weights wait to take, if it has few enough moves; else let them take it."""
    steps = [weights.waiting for weights in moved]
    first = steps[0]
    if first is not None and len(first.moves) <= room and all(step is first for step in steps):
        return first
    for weights in moved:
        weights.settle()
    return None

"""Full-parameter training: every weight is evaluated at W + eps z and W - eps z, and none of them moves.

The batch stands in the forward twice. Each module that has weights computes one half of it with W + eps z,
made in a scratch buffer just before, and the other with W - eps z. An embedding makes only the rows that it
reads, the head a block of the vocabulary at a time. Extra memory: two scratch buffers the size of the largest
other module.

A step's update is carried out when a weight is perturbed next, in the same pass over it; whoever reads the
weights otherwise calls `settle` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from sglang.srt.layers.moe.fused_moe_triton.layer import FusedMoE
from sglang.srt.model_executor.model_runner import ModelRunner

from sglang_mezo_plugin.engine.batch.builder import LabelledBatch
from sglang_mezo_plugin.engine.dense.graphs import DenseGraphs
from sglang_mezo_plugin.engine.dense.halves import Halves
from sglang_mezo_plugin.engine.dense.placement import assemble, locate
from sglang_mezo_plugin.engine.dense.probes import Probe
from sglang_mezo_plugin.engine.dense.weights import Update
from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.engine.graphs import Capture, check_model
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import tensor_shapes
from sglang_mezo_plugin.models.writing import write_checkpoint
from sglang_mezo_plugin.noise import Distribution, Moves, Region, StepNumbers
from sglang_mezo_plugin.noise.checks import DTYPES
from sglang_mezo_plugin.tasks.example import Batch
from sglang_mezo_plugin.training.objectives import Scores

# All-reduces that FlashInfer fuses with a norm read the norm's weights themselves, past its forward.
SERVER_ARGS = {"enforce_disable_flashinfer_allreduce_fusion": True}


class DenseCarrier(FrozenCarrier):
    """All weights of a model that the engine has loaded. Implements `carrier.Carrier`.

    checkpoint: the folder that the model was loaded from. distribution: of all directions. capture: with it,
    what is scored for training is scored by graphs; see `DenseGraphs`. Raises UserError for weights that are
    quantised, or that belong to experts.
    """

    def __init__(
        self,
        model_runner: ModelRunner,
        checkpoint: Path,
        distribution: Distribution = "gaussian",
        capture: Capture | None = None,
    ) -> None:
        model = model_runner.model
        _refuse_what_is_not_dense(model)
        if capture is not None:
            check_model(model_runner)
        self._checkpoint = checkpoint
        self.distribution = distribution
        self._shapes = tensor_shapes(checkpoint)
        self._pieces = locate(model, self._shapes)
        super().__init__(model_runner)
        self._halves = Halves(model, self._pieces, distribution)
        self._numbers = StepNumbers(self._builder.device)
        self.graphs = None
        if capture is not None:
            self.graphs = DenseGraphs(self._builder, self._forward, capture, self._numbers)

    def score_pairs(self, batch: Batch, seeds: Sequence[int], eps: float) -> list[tuple[Scores, Scores]]:
        return [(plus, minus) for plus, minus in self._score_probed(batch, 2, seeds, eps)]

    def score_pair_at_rest(self, batch: Batch) -> tuple[Scores, Scores]:
        plus, minus = self._score_at_once(self._builder.build(batch.examples, copies=2), 0, 0.0)
        return plus, minus

    def score_at(self, batch: Batch, seed: int, coefficient: float) -> Scores:
        return self._score_probed(batch, 1, [seed], coefficient)[0][0]

    def score(self, batch: Batch) -> Scores:
        self.settle()
        return super().score(batch)

    def step(self, moves: Moves, decay: float, rounding_seed: int) -> None:
        numbers = StepNumbers.moving(self._builder.device, moves, rounding_seed, decay)
        self._halves.step(Update(moves, decay, rounding_seed, numbers))

    def settle(self) -> None:
        self._halves.settle()

    def parameters(self) -> Mapping[str, tuple[torch.Tensor, Region]]:
        raise UserError(
            "momentum and Adam would keep a copy of all weights: use --optimizer sgd with --mode full"
        )

    def written(self) -> None:
        """There are no parameters to change in place."""

    @property
    def names(self) -> list[str]:
        """The checkpoint's parameters that are trained."""
        return sorted(self.sizes)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each of these parameters, whole and in the engine's dtype; in the engine's order."""
        return {
            piece.name: self._shapes[piece.name].numel() * parameter.itemsize
            for parameter, pieces in self._pieces.items()
            for piece in pieces
        }

    def save(self, folder: Path) -> None:
        """Write the weights as a Hugging Face checkpoint, in the engine's dtype."""
        self.settle()
        write_checkpoint(folder, self._checkpoint, self.sizes, assemble(self._pieces, self._shapes))

    def _score_probed(
        self, batch: Batch, copies: int, seeds: Sequence[int], eps: float
    ) -> list[list[Scores]]:
        """Score two copies of a batch at + and -, or one at +, for the direction of each seed."""
        if self.graphs is not None:
            scores = self.graphs.score(batch.examples, copies, seeds, eps)
        else:
            labelled = self._builder.build(batch.examples, copies)
            scores = [self._score_at_once(labelled, seed, eps) for seed in seeds]
        for seed, found in zip(seeds, scores, strict=True):
            if _has_nan(found):
                self._refuse_readers(batch, copies, seed, eps)
        return scores

    def _score_at_once(self, labelled: LabelledBatch, seed: int, eps: float) -> list[Scores]:
        """Score without a graph."""
        self._set_numbers(seed, eps)
        return labelled.split(self._forward(labelled, Probe(self._numbers)))

    def _refuse_readers(self, batch: Batch, copies: int, seed: int, eps: float) -> None:
        """Raise UserError if scores are NaN since a weight is read past its perturbation; name it."""
        shield = self._halves.shield

        def spoils(hidden: range) -> bool:
            with shield.of(hidden):
                return _has_nan(self._score_at_once(self._builder.build(batch.examples, copies), seed, eps))

        if spoils(range(0)):
            return  # the scores are NaN by themselves
        suspects = range(len(shield))
        if not spoils(suspects):
            raise UserError("a captured graph reads weights past their perturbation: leave out --cuda-graph")
        while len(suspects) > 1:
            half = suspects[: len(suspects) // 2]
            suspects = half if spoils(half) else suspects[len(half) :]
        raise UserError(
            f"{shield.name(suspects[0])}: a kernel of SGLang's reads it past its module, and so past its "
            "perturbation: use --mode lora"
        )

    def _set_numbers(self, seed: int, eps: float) -> None:
        """Say where to probe, and which step to take before; one that there is no room for is taken now."""
        update = self._halves.waiting
        if update is not None and len(update.moves) > self._numbers.room:
            self.settle()
            update = None
        if update is None:
            self._numbers.set(seed, eps)
        else:
            self._numbers.set(seed, eps, update.moves, update.rounding_seed, update.decay)

    def _forward(self, labelled: LabelledBatch, probe: Probe) -> torch.Tensor:
        tokens = len(labelled.forward_batch.input_ids) // labelled.copies
        with self._halves.at(probe, tokens, mirrored=labelled.copies == 2):
            return self._scorer.score(labelled, self._halves.head_blocks)


def _has_nan(copies: Sequence[Scores]) -> bool:
    return any(bool(np.isnan(option).any()) for copy in copies for options in copy for option in options)


def _refuse_what_is_not_dense(model: torch.nn.Module) -> None:
    for name, module in model.named_modules():
        method = type(getattr(module, "quant_method", None)).__name__
        if isinstance(module, FusedMoE):
            raise UserError(f"{name} is a mixture of experts: use --mode lora")
        if method != "NoneType" and not method.startswith("Unquantized"):
            raise UserError(f"{name} is quantised ({method}): load other weights, or use --mode lora")
    for name, parameter in model.named_parameters():
        if parameter.dtype not in DTYPES:
            raise UserError(f"{name} is {parameter.dtype}: pass another --dtype, or use --mode lora")

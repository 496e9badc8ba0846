"""Full-parameter training: every weight is evaluated at W + eps z and W - eps z, and none of them moves.

The batch stands in the forward twice. Each module that has weights runs once on the first half, with
W + eps z made in a scratch buffer just before, and once on the second half with W - eps z; the halves are
joined for whatever comes next. An embedding makes only the rows that it reads, the head a block of the
vocabulary at a time. Extra memory: two scratch buffers the size of the largest other module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from sglang.srt.layers.moe.fused_moe_triton.layer import FusedMoE
from sglang.srt.model_executor.model_runner import ModelRunner

from sglang_mezo_plugin.checkpoint_files import tensor_shapes, write_checkpoint
from sglang_mezo_plugin.engine.batches import LabelledBatch
from sglang_mezo_plugin.engine.checkpoints import assemble, locate
from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.engine.halves import Halves
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.losses import Scores
from sglang_mezo_plugin.noise import Direction, Region, accumulate_
from sglang_mezo_plugin.noise.checks import DTYPES
from sglang_mezo_plugin.tasks.example import Batch


class DenseCarrier(FrozenCarrier):
    """All weights of a model that the engine has loaded. Implements `carrier.Carrier`.

    checkpoint: the folder that the model was loaded from. Raises UserError for weights that are quantised, or
    that belong to experts.
    """

    def __init__(self, model_runner: ModelRunner, checkpoint: Path) -> None:
        model = model_runner.model
        _refuse_what_is_not_dense(model)
        self._checkpoint = checkpoint
        self._shapes = tensor_shapes(checkpoint)
        self._pieces = locate(model, self._shapes)
        super().__init__(model_runner)
        self._halves = Halves(model, self._pieces)

    def score_pairs(
        self, batch: Batch, directions: Sequence[Direction], eps: float
    ) -> list[tuple[Scores, Scores]]:
        labelled = self._builder.build(batch.examples, copies=2)
        return [self._score_pair(labelled, direction, eps) for direction in directions]

    def step(self, moves: Sequence[tuple[Direction, float]], decay: float, rounding_seed: int) -> None:
        for parameter, pieces in self._pieces.items():
            for piece in pieces:
                factor = decay if piece.decays else 1.0
                accumulate_(piece.of(parameter.data), moves, piece.region, rounding_seed, factor)

    def parameters(self) -> Mapping[str, tuple[torch.Tensor, Region]]:
        raise UserError(
            "momentum and Adam would keep a copy of all weights: use --optimizer sgd with --mode full"
        )

    def written(self) -> None:
        """There are no parameters to change in place."""

    @property
    def names(self) -> list[str]:
        """The checkpoint's parameters that are trained."""
        return sorted({piece.name for pieces in self._pieces.values() for piece in pieces})

    def save(self, folder: Path) -> None:
        """Write the weights as a Hugging Face checkpoint, in the engine's dtype."""
        write_checkpoint(folder, self._checkpoint, assemble(self._pieces, self._shapes))

    def _score_pair(self, labelled: LabelledBatch, direction: Direction, eps: float) -> tuple[Scores, Scores]:
        tokens = len(labelled.forward_batch.input_ids) // 2
        with self._halves.at(direction, eps, tokens):
            plus, minus = labelled.split(self._scorer.score(labelled, self._halves.head_blocks))
        return plus, minus


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

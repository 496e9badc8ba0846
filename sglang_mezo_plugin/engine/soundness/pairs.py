"""A pair at eps 0 is the model itself, twice.

So before a run begins, such a pair is scored and compared. Whatever a stack, a kind of hardware or a layout
of ranks does to perturbed weights, beyond rounding, shows here, and not as a gradient that is a little wrong.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Batch
from sglang_mezo_plugin.training.objectives import Scores

# Of a log-probability: what other kernels for another number of rows may round, TF32 included.
ROUNDING = {torch.float32: 0.02, torch.float16: 0.05, torch.bfloat16: 0.4}


class PairScorer(Protocol):
    """A carrier that trains."""

    def score(self, batch: Batch) -> Scores: ...

    def score_pair_at_rest(self, batch: Batch) -> tuple[Scores, Scores]:
        """Score a batch as `score_pairs` does, without a graph, at eps 0."""
        ...


def refuse_unlike_pairs(carrier: PairScorer, batch: Batch, dtype: torch.dtype) -> None:
    """Raise UserError if a pair at eps 0 does not score as the weights themselves."""
    theta = carrier.score(batch)
    for side in carrier.score_pair_at_rest(batch):
        for options, others in zip(side, theta, strict=True):
            for found, wanted in zip(options, others, strict=True):
                if not np.abs(found - wanted).max() <= ROUNDING[dtype]:
                    raise UserError(
                        f"a pair at eps 0 scores {found[0]:.4f} where the model scores {wanted[0]:.4f}, so "
                        "perturbed weights are computed wrong on this stack: pass --tp-size 1, or another "
                        "--attention-backend"
                    )

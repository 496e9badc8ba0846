"""A model that is only scored: what all carriers have in common."""

from __future__ import annotations

from sglang.srt.model_executor.model_runner import ModelRunner

from sglang_mezo_plugin.engine.batch.builder import BatchBuilder
from sglang_mezo_plugin.engine.batch.scoring import Scorer
from sglang_mezo_plugin.tasks.example import Batch
from sglang_mezo_plugin.training.objectives import Scores


class FrozenCarrier:
    """Scores batches with the weights that the engine has loaded."""

    def __init__(self, model_runner: ModelRunner) -> None:
        self._builder = BatchBuilder(model_runner)
        self._scorer = Scorer(model_runner)

    @property
    def hit_rate(self) -> float:
        """The fraction of all tokens so far that were reused from others of their batch, in [0, 1)."""
        return self._builder.hit_rate

    def forget_counts(self) -> None:
        """Let `hit_rate` begin anew."""
        self._builder.forget_counts()

    def score(self, batch: Batch) -> Scores:
        """Score a batch at theta itself."""
        labelled = self._builder.build(batch.examples, copies=1)
        return labelled.split(self._scorer.score(labelled))[0]

    def settle(self) -> None:
        """Let the weights in memory be what the steps so far make of them, for whoever reads them there."""

"""Estimators: what a step learns before the weights move. `trainer.Trainer` takes any of them."""

from collections.abc import Mapping
from typing import Any, Protocol

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.journal import StepRecord
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.training import spsa
from sglang_mezo_plugin.training.carrier import Carrier
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.objectives import Objective, loss
from sglang_mezo_plugin.training.schedules import learning_rate

FLOAT32_MAX = 2.0**128 - 2.0**104
CURE = "pass a smaller --eps or --learning-rate, or --dtype bfloat16 or float32"


class NonFiniteLoss(UserError):
    """A loss that is infinite or NaN."""


class Estimator(Protocol):
    """Evaluates the model around its present weights, which it leaves alone."""

    def __call__(self, step: int) -> tuple[StepRecord, Mapping[str, Any]]:
        """Return all that the step's update depends on, and metrics that a resumed run can do without."""
        ...

    def batch_identity(self, step: int) -> str:
        """Return what a step's record says of its batch, without evaluating anything."""
        ...


class PairEstimator:
    """Losses of a batch at theta + eps z and at theta - eps z, for each direction z of a step: MeZO's."""

    def __init__(
        self, carrier: Carrier, objective: Objective, sampler: Sampler, config: TrainerConfig
    ) -> None:
        self.carrier = carrier
        self.objective = objective
        self.sampler = sampler
        self.config = config

    def batch_identity(self, step: int) -> str:
        return self.sampler.batch(step).identity

    def __call__(self, step: int) -> tuple[StepRecord, Mapping[str, Any]]:
        """Score a step's batch. NonFiniteLoss if a loss is, or if it has no projected gradient in fp32."""
        config = self.config
        batch = self.sampler.batch(step)
        seeds = spsa.direction_seeds(config.seed, step, config.num_pairs)
        losses = [
            (loss(self.objective, batch.examples, plus), loss(self.objective, batch.examples, minus))
            for plus, minus in self.carrier.score_pairs(batch, seeds, config.eps)
        ]
        grads = [spsa.projected_grad(plus, minus, config.eps) for plus, minus in losses]
        for seed, (plus, minus), grad in zip(seeds, losses, grads, strict=True):
            # Infinite losses make an infinite or NaN gradient; moves are made of fp32 coefficients.
            if not abs(grad) <= FLOAT32_MAX:
                raise NonFiniteLoss(
                    f"step {step}: losses {plus} and {minus} at theta + eps z and theta - eps z (batch "
                    f"{batch.identity}, direction seed {seed}): {CURE}"
                )
        record = StepRecord(
            step,
            seeds,
            tuple(plus for plus, _ in losses),
            tuple(minus for _, minus in losses),
            tuple(spsa.clip(grad, config.projected_grad_clip) for grad in grads),
            learning_rate(step, config.steps, config.learning_rate, config.schedule, config.warmup_steps),
            batch.identity,
        )
        return record, {}

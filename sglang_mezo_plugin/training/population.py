"""A generation: members theta + sigma z and theta - sigma z, and the rewards of what they write.

A member is a direction and a sign; its tensors exist while it is sent to the server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import StepNumbers, UpdatePlan
from sglang_mezo_plugin.rewards.loading import CheckedReward
from sglang_mezo_plugin.runs.journal import StepRecord
from sglang_mezo_plugin.tasks.questions import Question
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.training import spsa
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.estimators import FLOAT32_MAX
from sglang_mezo_plugin.training.evolution import Shaping, projected_grads
from sglang_mezo_plugin.training.members import Asker, Completion, Job, Member, Outcomes, Sampling
from sglang_mezo_plugin.training.schedules import learning_rate

if TYPE_CHECKING:
    import torch

    from sglang_mezo_plugin.models.adapter import Adapter

Sides = Literal["mirrored", "one-sided"]


@dataclass(frozen=True)
class Strategy:
    """How a population is made and judged. concurrency: completions in flight. mean: ask theta itself too."""

    estimator: Sides
    shaping: Shaping
    sampling: Sampling
    concurrency: int
    mean: bool = False


class Population:
    """Evaluates generations of an adapter, its members asked by `asker`. Implements `estimators.Estimator`.

    config: `num_pairs` directions a generation, at sigma = `eps`. A member is worth the mean reward of its
    completions. A member with a completion that fails for good is dropped, and its twin with it.
    """

    def __init__(
        self,
        asker: Asker,
        adapter: Adapter,
        sampler: Sampler[Question],
        reward: CheckedReward,
        config: TrainerConfig,
        strategy: Strategy,
    ) -> None:
        self._asker, self._adapter, self._sampler = asker, adapter, sampler
        self._reward, self._config, self._strategy = reward, config, strategy

    def batch_identity(self, step: int) -> str:
        return self._sampler.batch(step).identity

    def __call__(self, step: int) -> tuple[StepRecord, Mapping[str, Any]]:
        """Evaluate a generation.

        UserError of a reward, if half of the members or more were dropped, or if rewards are too large.
        """
        config, strategy = self._config, self._strategy
        batch = self._sampler.batch(step)
        seeds = spsa.direction_seeds(config.seed, step, config.num_pairs)
        signs = (config.eps, -config.eps) if strategy.estimator == "mirrored" else (config.eps,)
        jobs = self._jobs(batch.examples, step)
        members = [self._member(jobs, seed, coefficient) for seed in seeds for coefficient in signs]
        if strategy.mean:
            members.append(self._member(jobs))
        outcomes = self._asker.evaluate_members(members, strategy.concurrency)
        mean = {"mean_reward": _worth(self._reward, batch.examples, outcomes.pop())} if strategy.mean else {}
        rewards = [_worth(self._reward, batch.examples, found) for found in outcomes]
        families = [rewards[at : at + len(signs)] for at in range(0, len(rewards), len(signs))]
        alive = [number for number, family in enumerate(families) if None not in family]
        if 2 * len(alive) <= len(families):
            raise _first_failure(batch.examples, outcomes)
        plus, *minus = zip(*(families[number] for number in alive), strict=True)
        grads = projected_grads(plus, minus[0] if minus else None, config.eps, strategy.shaping)
        if not all(abs(grad) <= FLOAT32_MAX for grad in grads):
            raise UserError(
                f"step {step}: rewards from {min(plus)} to {max(plus)} are too large for --shaping "
                f"{strategy.shaping} at this --sigma: pass --shaping z-score"
            )
        record = StepRecord(
            step,
            tuple(seeds[number] for number in alive),
            tuple(-reward for reward in plus),
            tuple(-reward for reward in minus[0]) if minus else (),
            tuple(grads),
            learning_rate(step, config.steps, config.learning_rate, config.schedule, config.warmup_steps),
            batch.identity,
        )
        return record, {"completion_tokens": _tokens(outcomes), **mean}

    def evaluate(self, questions: Sequence[Question], reward: CheckedReward) -> dict[str, float]:
        """Return {"loss", "reward"} of theta itself, loss being -reward. UserError if a completion fails."""
        member = self._member(self._jobs(questions, step=0))
        (outcomes,) = self._asker.evaluate_members([member], self._strategy.concurrency)
        worth = _worth(reward, questions, outcomes)
        if worth is None:
            raise _first_failure(questions, [outcomes])
        return {"loss": -worth, "reward": worth}

    def _jobs(self, questions: Sequence[Question], step: int) -> list[Job]:
        """Return what every member of a generation is asked: with the same seeds, so that luck is shared."""
        sampling = self._strategy.sampling
        if sampling.temperature == 0:
            return [Job(question.prompt, sampling) for question in questions]
        first = (self._config.seed << 32) + step * len(questions)
        return [
            Job(question.prompt, replace(sampling, seed=first + number))
            for number, question in enumerate(questions)
        ]

    def _member(self, jobs: Sequence[Job], seed: int | None = None, coefficient: float = 0.0) -> Member:
        tensors = partial(tensors_at, self._adapter, seed, coefficient)
        return Member(tensors, self._adapter.config.to_dict(), jobs)


def tensors_at(adapter: Adapter, seed: int | None, coefficient: float) -> dict[str, torch.Tensor]:
    """Return theta + coefficient * z in fp32, by PEFT's names; theta itself without a seed of z."""
    tensors = {name: tensor.clone() for name, tensor in adapter.tensors.items()}
    if seed is not None:
        parts = [(tensor, adapter.regions[name], True) for name, tensor in tensors.items()]
        device = parts[0][0].device
        numbers = StepNumbers.moving(device, [(seed, coefficient)], 0)  # fp32: not rounded
        UpdatePlan(parts, adapter.distribution).accumulate_(numbers)
    return tensors


def _worth(reward: CheckedReward, questions: Sequence[Question], outcomes: Outcomes) -> float | None:
    """Return a member's mean reward; None if a completion has failed."""
    if any(isinstance(outcome, UserError) for outcome in outcomes):
        return None
    return fmean(
        reward(question.text, completion.text, question.record, question.where)
        for question, completion in zip(questions, outcomes, strict=True)
    )


def _first_failure(questions: Sequence[Question], members: Sequence[Outcomes]) -> UserError:
    return next(
        UserError(f"{question.where}: {outcome}")
        for outcomes in members
        for question, outcome in zip(questions, outcomes, strict=True)
        if isinstance(outcome, UserError)
    )


def _tokens(members: Sequence[Outcomes]) -> int:
    return sum(o.completion_tokens for outcomes in members for o in outcomes if isinstance(o, Completion))

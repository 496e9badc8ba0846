"""The options of the training loop, checked before a model is loaded."""

import math
from dataclasses import dataclass
from typing import get_args

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Distribution
from sglang_mezo_plugin.training import spsa
from sglang_mezo_plugin.training.schedules import Schedule


@dataclass(frozen=True)
class TrainerConfig:
    """What the loop needs to know; each name is an option. UserError for a number out of range.

    distribution: of the directions, for whoever makes the carrier. projected_grad_clip: bound on each
    |projected gradient|; None: none. eval_steps: evaluate after so many steps; 0: only at the start and the
    end.
    """

    steps: int
    learning_rate: float
    eps: float = 1e-3
    num_pairs: int = 1
    seed: int = 0
    distribution: Distribution = "gaussian"
    projected_grad_clip: float | None = None
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    eval_steps: int = 0

    def __post_init__(self) -> None:
        self._check("steps", self.steps >= 1, "at least 1")
        self._check("learning_rate", 0 < self.learning_rate < math.inf, "above 0 and finite")
        self._check("num_pairs", self.num_pairs >= 1, "at least 1")
        for name, choices in (("distribution", Distribution), ("schedule", Schedule)):
            self._check(
                name, getattr(self, name) in get_args(choices), f"one of {', '.join(get_args(choices))}"
            )
        clip = self.projected_grad_clip
        self._check("projected_grad_clip", clip is None or 0 < clip < math.inf, "above 0 and finite")
        self._check("warmup_steps", 0 <= self.warmup_steps <= self.steps, "at least 0 and at most --steps")
        self._check("eval_steps", self.eval_steps >= 0, "at least 0")
        spsa.projected_grad(0.0, 0.0, self.eps)
        spsa.direction_seeds(self.seed, self.steps, self.num_pairs)

    def _check(self, name: str, fine: bool, must_be: str) -> None:
        if not fine:
            raise UserError(f"--{name.replace('_', '-')} must be {must_be}, not {getattr(self, name)}")

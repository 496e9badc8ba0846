"""The options of the training loop, checked before a model is loaded."""

from dataclasses import MISSING, dataclass

from sglang_mezo_plugin.bounds import POSITIVE, Bound, bounded, check_fields
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

    steps: int = bounded(MISSING, Bound(at_least=1))
    learning_rate: float = bounded(MISSING, POSITIVE)
    eps: float = bounded(1e-3, spsa.EPS)
    num_pairs: int = bounded(1, Bound(at_least=1))
    seed: int = bounded(0, spsa.SEED)
    distribution: Distribution = "gaussian"
    projected_grad_clip: float | None = bounded(None, POSITIVE)
    schedule: Schedule = "constant"
    warmup_steps: int = 0
    eval_steps: int = bounded(0, Bound(at_least=0))

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.warmup_steps <= self.steps:
            raise UserError(f"--warmup-steps must be at least 0 and at most --steps, not {self.warmup_steps}")
        spsa.direction_seeds(self.seed, self.steps, self.num_pairs)

"""Options of the methods: MeZO, evolution strategies, and the update rules of both."""

from dataclasses import dataclass
from typing import Literal

from sglang_mezo_plugin.bounds import bound_of
from sglang_mezo_plugin.cli.declaring import Options, option
from sglang_mezo_plugin.cli.parsing import short
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Distribution
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.evolution import Shaping
from sglang_mezo_plugin.training.optimizers import OptimizerConfig, OptimizerName
from sglang_mezo_plugin.training.population import Sides
from sglang_mezo_plugin.training.schedules import Schedule

# Of Malladi et al. 2023, by --mode.
PAPER = {"lora": {"learning_rate": 1e-4, "eps": 1e-2}, "full": {"learning_rate": 1e-6, "eps": 1e-3}}


def _of_paper(name: str) -> str:
    return "default: " + ", ".join(f"{short(values[name])} ({mode})" for mode, values in PAPER.items())


@dataclass(frozen=True, kw_only=True)
class Update(Options):
    """From projected gradients to a move."""

    distribution: Distribution = option(TrainerConfig.distribution, header=50)
    optimizer: OptimizerName = option("sgd", header=51)
    momentum: float = option(
        OptimizerConfig.momentum,
        bound=bound_of(OptimizerConfig, "momentum"),
        header=80,
        when=lambda options: options.optimizer == "momentum",
    )
    adam_betas: tuple[float, float] = option(
        OptimizerConfig.adam_betas,
        bound=bound_of(OptimizerConfig, "adam_betas"),
        header=81,
        when=lambda options: options.optimizer == "adam",
        metavar="B",
    )
    adam_eps: float = option(
        OptimizerConfig.adam_eps,
        bound=bound_of(OptimizerConfig, "adam_eps"),
        header=82,
        when=lambda options: options.optimizer == "adam",
    )
    weight_decay: float = option(OptimizerConfig.weight_decay, header=52)
    schedule: Schedule = option(TrainerConfig.schedule, header=54)
    warmup_steps: int = option(TrainerConfig.warmup_steps, header=55)


@dataclass(frozen=True, kw_only=True)
class Pairs(Options):
    """How the gradient is estimated."""

    mode: Literal["lora", "full"] = option(header=0, help="train an adapter, or every weight")
    learning_rate: float | None = option(
        None, bound=bound_of(TrainerConfig, "learning_rate"), header=41, help=_of_paper("learning_rate")
    )
    eps: float | None = option(
        None,
        bound=bound_of(TrainerConfig, "eps"),
        header=40,
        help=f"of the perturbation; {_of_paper('eps')}",
    )
    num_pairs: int = option(
        TrainerConfig.num_pairs,
        bound=bound_of(TrainerConfig, "num_pairs"),
        header=42,
        help="directions a step; default: {default}",
    )
    projected_grad_clip: float | None = option(
        None,
        bound=bound_of(TrainerConfig, "projected_grad_clip"),
        header=53,
        help="bound on the projected gradient",
    )


@dataclass(frozen=True, kw_only=True)
class Mezo(Update, Pairs):
    title = "method"
    description = "MeZO, Malladi et al. 2023; defaults as in the paper"

    def __post_init__(self) -> None:
        for mode, defaults in PAPER.items():
            for name, value in defaults.items():
                if mode == self.mode and getattr(self, name) is None:
                    self._fill(name, value)
        super().__post_init__()
        if self.mode == "full" and self.optimizer != "sgd":
            raise UserError(
                f"--optimizer {self.optimizer} would keep copies of all weights: use sgd with --mode full"
            )


@dataclass(frozen=True, kw_only=True)
class Generations(Options):
    """How a population is made and judged."""

    population: int = option(30, header=30, help="members of a generation; default: {default}")
    eps: float = option(
        1e-3,
        flags=("--sigma", "--eps"),
        bound=bound_of(TrainerConfig, "eps"),
        header=40,
        help="of the perturbation; default: {default}",
    )
    learning_rate: float = option(
        5e-4, bound=bound_of(TrainerConfig, "learning_rate"), header=41, help="alpha; default: {default}"
    )
    estimator: Sides = option(
        "mirrored",
        header=31,
        help="theta + sigma z and theta - sigma z (default), or theta + sigma z alone, as in the paper",
    )
    shaping: Shaping = option("z-score", header=32, help="of rewards; default: {default} over the members")
    mean: bool = option(False, help="ask theta itself too in each generation")
    merge: bool = option(False, help="write OUT/model too: the base with theta merged")


@dataclass(frozen=True, kw_only=True)
class Evolution(Update, Generations):
    title = "method"
    description = "evolution strategies; defaults as in Qiu et al. 2025"

    def __post_init__(self) -> None:
        super().__post_init__()
        each = self.members_of_direction
        if self.population < 2 or self.population % each:
            even = "an even number" if each == 2 else "a number"
            raise UserError(f"--population must be {even} of 2 or more, not {self.population}")

    @property
    def members_of_direction(self) -> int:
        return 2 if self.estimator == "mirrored" else 1

    @property
    def num_pairs(self) -> int:
        """Directions of a generation."""
        return self.population // self.members_of_direction

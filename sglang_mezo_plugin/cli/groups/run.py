"""Options of a run: where it is, how long it is, and how it is shown."""

from dataclasses import dataclass
from typing import Any

from sglang_mezo_plugin.bounds import bound_of
from sglang_mezo_plugin.cli.declaring import Options, option
from sglang_mezo_plugin.tasks.sampler import BATCH_SIZE
from sglang_mezo_plugin.training.config import TrainerConfig


def _schedule_needs_length(options: Any) -> bool:
    return options.schedule != "constant"


@dataclass(frozen=True, kw_only=True)
class Run(Options):
    title = "run"

    output_dir: str = option()
    resume: bool = option(False, help="go on with the run in --output-dir, if any")
    seed: int = option(TrainerConfig.seed, bound=bound_of(TrainerConfig, "seed"), header=20)
    eval_steps: int = option(
        TrainerConfig.eval_steps,
        bound=bound_of(TrainerConfig, "eval_steps"),
        help="evaluate every so many steps; 0: at the start and end only",
    )
    quiet: bool = option(False, help="no progress bar")


@dataclass(frozen=True, kw_only=True)
class TrainingRun(Run):
    title = "run"

    steps: int = option(
        20_000,
        bound=bound_of(TrainerConfig, "steps"),
        header=90,
        when=_schedule_needs_length,
        help="default: {default}",
    )
    batch_size: int = option(16, bound=BATCH_SIZE, header=10, help="default: {default}")
    cuda_graph: bool = option(
        False,
        help="score pairs by CUDA graphs: faster where batches or models are small. on a GPU, with "
        "--attention-backend triton",
    )


@dataclass(frozen=True, kw_only=True)
class EvolutionRun(Run):
    title = "run"

    steps: int = option(
        100,
        flags=("--steps", "--generations"),
        bound=bound_of(TrainerConfig, "steps"),
        header=90,
        when=_schedule_needs_length,
        help="generations; default: {default}",
    )
    batch_size: int | None = option(
        None, bound=BATCH_SIZE, header=60, metavar="N", help="prompts of a generation; default: all"
    )

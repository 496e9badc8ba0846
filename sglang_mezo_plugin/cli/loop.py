"""From the options of a method to the loop's configuration and an optimizer."""

from dataclasses import fields

from sglang_mezo_plugin.cli.options import EvolveOptions, TrainOptions
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.optimizers import Optimizer, OptimizerConfig, make_optimizer


def config_of(options: TrainOptions | EvolveOptions) -> TrainerConfig:
    """Return what the loop needs to know; what the method has no option for is as `TrainerConfig` has it."""
    names = [field.name for field in fields(TrainerConfig)]
    return TrainerConfig(**{name: getattr(options, name) for name in names if hasattr(options, name)})


def optimizer_of(options: TrainOptions | EvolveOptions) -> Optimizer:
    numbers = {field.name: getattr(options, field.name) for field in fields(OptimizerConfig)}
    return make_optimizer(options.optimizer, learning_rate=options.learning_rate, **numbers)

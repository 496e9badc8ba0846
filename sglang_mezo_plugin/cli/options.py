"""The options of each command. The last group is the first of --help."""

from dataclasses import dataclass
from typing import Literal

from sglang_mezo_plugin.cli.declaring import option
from sglang_mezo_plugin.cli.groups.adapter import Lora, OnlyLora
from sglang_mezo_plugin.cli.groups.data import EvaluationData, Questions, TrainingData
from sglang_mezo_plugin.cli.groups.method import Evolution, Mezo
from sglang_mezo_plugin.cli.groups.model import EngineModel, ServedModel
from sglang_mezo_plugin.cli.groups.results import Evaluation, Export
from sglang_mezo_plugin.cli.groups.run import EvolutionRun, TrainingRun
from sglang_mezo_plugin.cli.groups.server import Asked


@dataclass(frozen=True, kw_only=True)
class TrainOptions(TrainingRun, Lora, Mezo, TrainingData, EngineModel):
    """Of `train`."""


@dataclass(frozen=True, kw_only=True)
class EvolveOptions(EvolutionRun, OnlyLora, Evolution, Questions, Asked, ServedModel):
    """Of `evolve`."""

    mode: Literal["lora"] = option("lora", header=0, command_line=False)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Evaluation, EvaluationData, EngineModel):
    """Of `evaluate`."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Export):
    """Of `export`."""

"""The commands, and the shortest line of words that each takes."""

from types import ModuleType
from typing import NamedTuple

from sglang_mezo_plugin import evaluate, evolve, export, train
from sglang_mezo_plugin.cli.declaring import Options
from sglang_mezo_plugin.cli.options import EvaluateOptions, EvolveOptions, ExportOptions, TrainOptions
from sglang_mezo_plugin.cli.parsing import read_options


class Command(NamedTuple):
    module: ModuleType
    options: type[Options]
    least: dict[str, str]

    def read(self, *words: str) -> Options:
        """The options of a command line: the least that must be said, and these words."""
        least = [
            word for name, value in self.least.items() for word in (f"--{name.replace('_', '-')}", value)
        ]
        return read_options(self.options, self.module.__doc__, [*least, *words])[0]


RUN = {"model_path": "M", "train_file": "T", "output_dir": "O"}
COMMANDS = {
    "train": Command(train, TrainOptions, {**RUN, "mode": "lora"}),
    "evolve": Command(evolve, EvolveOptions, {**RUN, "server": "http://x", "reward": "m:f"}),
    "evaluate": Command(evaluate, EvaluateOptions, {"model_path": "M", "eval_file": "E"}),
    "export": Command(export, ExportOptions, {"run": "R", "output_dir": "O"}),
}

"""Options of what is done with a model that is trained: evaluation, and the export of a step."""

from dataclasses import dataclass

from sglang_mezo_plugin.cli.declaring import Options, option
from sglang_mezo_plugin.tasks.sampler import BATCH_SIZE


@dataclass(frozen=True, kw_only=True)
class Evaluation(Options):
    title = "evaluation"

    lora_path: str | None = option(None, metavar="DIR", help="a PEFT adapter")
    num_shots: int = option(0, help="in-context examples; default: {default}")
    seed: int = option(0, help="of the draw of in-context examples")
    predictions_file: str | None = option(
        None,
        metavar="FILE",
        help="a JSON line an example: label, predicted, loss, scores (options' mean log-probabilities)",
    )
    batch_size: int = option(16, bound=BATCH_SIZE, help="default: {default}")


@dataclass(frozen=True, kw_only=True)
class Export(Options):
    run: str = option(metavar="OUT", help="--output-dir of the training")
    output_dir: str = option(metavar="DIR", help="a folder that does not exist yet")
    step: int | None = option(None, metavar="N", help="default: the journal's last; 0: the base")
    model_path: str | None = option(None, metavar="DIR", help="the base model, if it has moved")
    lora_path: str | None = option(None, metavar="DIR", help="the adapter it began with, if it has moved")

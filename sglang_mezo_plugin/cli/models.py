"""From the options of a model and of an adapter to the numbers that a run begins with."""

from pathlib import Path

import torch

from sglang_mezo_plugin.cli.options import EvolveOptions, TrainOptions
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import checkpoint_dtype, read_config


def dtype_of(name: str, checkpoint: Path) -> torch.dtype:
    """Return the dtype of a --dtype; of auto, the checkpoint's own."""
    return checkpoint_dtype(checkpoint) if name == "auto" else getattr(torch, name)


def check_trainable(mode: str, checkpoint: Path) -> None:
    """Raise UserError if every weight is to be trained, and the weights are quantised."""
    if mode == "full" and read_config(checkpoint).get("quantization_config"):
        raise UserError(
            f"{checkpoint / 'config.json'} has a quantization_config: name the model with its original "
            "weights, or use --mode lora"
        )


def make_adapter(options: TrainOptions | EvolveOptions, checkpoint: Path) -> Adapter:
    if options.lora_path:
        return Adapter.load(Path(options.lora_path), checkpoint, options.distribution)
    return Adapter.fresh(
        checkpoint,
        options.seed,
        options.lora_rank,
        options.lora_alpha,
        options.lora_target_modules,
        options.lora_layers_to_transform,
        options.distribution,
    )

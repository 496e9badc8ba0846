"""A LoRA adapter merged into the weights that it adapts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers.pytorch_utils import Conv1D

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import load_architecture, read_tensors, tensor_shapes
from sglang_mezo_plugin.models.peft_files import module_path
from sglang_mezo_plugin.models.writing import write_checkpoint


def write_merged(folder: Path, checkpoint: Path, adapter: Adapter) -> None:
    """Write a checkpoint with the adapter in its weights. UserError as of `merged_tensors`."""
    sizes = {name: tensor.nbytes for name, tensor in read_tensors(checkpoint)}  # mapped, not read
    write_checkpoint(folder, checkpoint, sizes, merged_tensors(checkpoint, adapter))


def merged_tensors(checkpoint: Path, adapter: Adapter) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all tensors of a checkpoint by name, W + scale * B A where the adapter has W's module.

    As PEFT's `merge_and_unload`; the sum is made in fp32, and has W's dtype. UserError if the checkpoint
    lacks a weight that the adapter changes.
    """
    model = load_architecture(checkpoint)
    stored = tensor_shapes(checkpoint).keys()
    config = adapter.config
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    adapted = {}
    for name in adapter.tensors:
        if ".lora_A." not in name:
            continue
        module = module_path(name)
        # Checkpoints of a base model leave its name out: "h.0.attn" for "transformer.h.0.attn".
        weight = f"{module}.weight"
        found = weight if weight in stored else weight.removeprefix(f"{model.base_model_prefix}.")
        if found not in stored:
            raise UserError(f"{checkpoint} has no {weight}, which the adapter changes: leave out --merge")
        pair = (adapter.tensors[name.replace(".lora_A.", ".lora_B.")], adapter.tensors[name])
        adapted[found] = (pair, isinstance(model.get_submodule(module), Conv1D))
    for name, tensor in read_tensors(checkpoint):
        if name in adapted:
            (b, a), transposed = adapted[name]
            delta = scale * (b @ a)
            tensor = (tensor.float() + (delta.T if transposed else delta)).to(tensor.dtype)
        yield name, tensor

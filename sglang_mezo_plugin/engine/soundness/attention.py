"""What a configuration asks of attention and the engine's layers do not do: windows, chunks, caps, ALiBi.

A window that is missing, or one token too wide, changes nothing until a sequence outgrows it. So it is
refused by length: below it all is well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.model_executor.model_runner import ModelRunner
from transformers import PretrainedConfig

from sglang_mezo_plugin.errors import UserError

# Their attention leaves a layer's cap on its logits out.
UNCAPPED_BACKENDS = ("torch_native",)


def refuse_unlike_attention(runner: ModelRunner, longest: int) -> None:
    """Raise UserError if sequences of `longest` tokens would not be attended to as configured."""
    config = runner.model_config.hf_text_config
    layers = sorted(
        (module for module in runner.model.modules() if isinstance(module, RadixAttention)),
        key=lambda layer: layer.layer_id,
    )
    architecture = type(runner.model).__name__
    _refuse_caps(config, runner.model, layers, architecture)
    backend = runner.prefill_attention_backend_str
    if backend in UNCAPPED_BACKENDS:
        for layer in layers:
            if layer.logit_cap:
                raise UserError(
                    f"{architecture} caps the logits of its attention, and --attention-backend "
                    f"{backend} does not: pass another, such as triton on a GPU"
                )
    windowed = any(layer.sliding_window_size > -1 for layer in layers)
    if windowed and runner.sliding_window_size is None and backend != "torch_native":
        raise UserError(
            f"{architecture} has layers with sliding windows, and SGLang does not tell --attention-backend "
            f"{backend} of them: pass --attention-backend torch_native"
        )
    if getattr(config, "alibi", False):
        raise UserError(
            f"{architecture} has ALiBi, which SGLang's attention lacks: train one of another architecture"
        )
    reach = min(_sound_lengths(config, layers), default=longest)
    if longest > reach:
        raise UserError(
            f"the longest example has {longest} tokens, and beyond {reach} SGLang's {architecture} does not "
            "attend as its config.json says (sliding_window, attention_chunk_size): pass --context-length "
            f"{reach} --truncate-prompts, or train another model"
        )


def _refuse_caps(
    config: PretrainedConfig, model: torch.nn.Module, layers: Sequence[RadixAttention], architecture: str
) -> None:
    processors = [module for module in model.modules() if isinstance(module, LogitsProcessor)]
    found = {
        "attn_logit_softcapping": [layer.logit_cap for layer in layers],
        "final_logit_softcapping": [processor.final_logit_softcapping for processor in processors],
    }
    for name, values in found.items():
        cap = getattr(config, name, None)
        for value in values:
            if float(value or 0) != float(cap or 0):
                raise UserError(
                    f"config.json has {name} {cap}, and SGLang's {architecture} has {value}: train one of "
                    "another architecture"
                )


def _sound_lengths(config: PretrainedConfig, layers: Sequence[RadixAttention]) -> Iterator[int]:
    """Yield, for each layer whose window is not as configured, the length up to which that is the same."""
    window = _own(config, "sliding_window") if getattr(config, "use_sliding_window", True) else None
    chunk = _own(config, "attention_chunk_size")
    types = getattr(config, "layer_types", None)
    for layer in layers:
        kind = types[layer.layer_id] if types and layer.layer_id < len(types) else None
        wanted = window if kind in (None, "sliding_attention") else None
        # SGLang counts the tokens before a token, transformers counts the token too.
        has = layer.sliding_window_size + 1 if layer.sliding_window_size > -1 else None
        if kind == "chunked_attention" and not layer.use_irope:
            yield chunk
        if wanted != has:
            yield min(value for value in (wanted, has) if value is not None)


def _own(config: PretrainedConfig, name: str) -> Any:
    """Return a value that this kind of model knows; any config.json may hold names that its model ignores."""
    return getattr(config, name, None) if hasattr(type(config)(), name) else None

"""What PEFT's files are called, and what their names of tensors say: "...self_attn.q_proj.lora_A.weight"."""

from collections.abc import Iterable

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."


def module_path(name: str) -> str:
    """Return the path in the model of the module that a tensor adapts: model.layers.0.self_attn.q_proj."""
    return name.removeprefix(PREFIX).partition(".lora_")[0]


def target_names(names: Iterable[str]) -> set[str]:
    """Return the last names of the modules that an adapter of such tensors changes: q_proj, v_proj, ..."""
    return {module_path(name).rpartition(".")[2] for name in names}

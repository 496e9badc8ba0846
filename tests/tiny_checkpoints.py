"""Checkpoints of small models with random weights, as transformers saves them."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

Tensors = dict[str, torch.Tensor]

SIZES = {"vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
OPT = {**SIZES, "ffn_dim": 48, "max_position_embeddings": 40}
GROUPED = {**SIZES, "intermediate_size": 48, "num_key_value_heads": 2}
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
CONFIGS: dict[str, PretrainedConfig] = {
    "opt": OPTConfig(word_embed_proj_dim=32, **OPT),
    "opt-projected": OPTConfig(word_embed_proj_dim=16, do_layer_norm_before=False, **OPT),
    "opt-untied": OPTConfig(word_embed_proj_dim=32, tie_word_embeddings=False, **OPT),
    "llama": LlamaConfig(tie_word_embeddings=False, **GROUPED),
    "llama-tied": LlamaConfig(tie_word_embeddings=True, **GROUPED),
    "qwen2": Qwen2Config(tie_word_embeddings=True, **GROUPED),
    "qwen2-untied": Qwen2Config(tie_word_embeddings=False, **GROUPED),
    "gpt2": GPT2Config(**GPT2),
    "gpt2-untied": GPT2Config(tie_word_embeddings=False, **GPT2),
}


def save(name: str, folder: Path, **options: object) -> Path:
    """Save a model of random weights into a new folder. options: of save_pretrained."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[name]).save_pretrained(folder / name, **options)
    return folder / name


def load(folder: Path) -> PreTrainedModel:
    """Let transformers read a checkpoint; it must find each weight, and use each."""
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return model


def sizes(tensors: Tensors) -> dict[str, int]:
    """Bytes of each tensor, as `write_checkpoint` takes them."""
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def equal(first: Tensors, second: Tensors) -> bool:
    """Whether tensors have the same names, dtypes and numbers."""
    return first.keys() == second.keys() and all(
        tensor.dtype == second[name].dtype and tensor.equal(second[name]) for name, tensor in first.items()
    )

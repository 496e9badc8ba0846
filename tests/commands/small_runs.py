"""Small models with random weights and a tokenizer of bytes, data, and the words of a command line."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

SPECIAL = ["<pad>", "</s>"]
SIZES = {
    "vocab_size": len(SPECIAL) + 256,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 160,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
# Weights so large that scores differ from prompt to prompt.
CONFIGS: dict[str, PretrainedConfig] = {
    "opt": OPTConfig(word_embed_proj_dim=64, ffn_dim=96, init_std=0.2, **SIZES),
    "llama": LlamaConfig(intermediate_size=96, num_key_value_heads=2, initializer_range=0.2, **SIZES),
}
SUBJECTS = ["a film", "the score", "this scene", "an actor", "the plot of it"]
VERDICTS = [" is dull", " is fine", " shines"]


@cache
def saved_model(name: str, parent: Path) -> Path:
    torch.manual_seed(0)
    folder = parent / name
    AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    vocabulary = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def verdicts(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows with options that begin alike."""
    draw = np.random.default_rng(seed)
    return [
        {
            "prompt": " and ".join(draw.choice(SUBJECTS, draw.integers(1, 3))),
            "options": VERDICTS,
            "label": int(draw.integers(len(VERDICTS))),
        }
        for _ in range(count)
    ]

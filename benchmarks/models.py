"""The models that are measured: published sizes, random weights, and random token ids to train on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import LlamaConfig, OPTConfig, PretrainedConfig

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import tensor_shapes
from sglang_mezo_plugin.tasks.example import Example

FIRST_TOKEN = 4  # those before it are OPT's special ones
SEED = 0


def _llama(
    hidden: int, layers: int, heads: int, intermediate: int, vocabulary: int = 32000, **options: Any
) -> LlamaConfig:
    """Llama as Touvron et al. 2023 (arXiv:2302.13971, table 2) have it, or another of its kind."""
    return LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate,
        vocab_size=vocabulary,
        architectures=["LlamaForCausalLM"],
        **options,
    )


def _opt(hidden: int, layers: int, heads: int, vocabulary: int = 50272) -> OPTConfig:
    """OPT as Zhang et al. 2022 (arXiv:2205.01068, table 1) have it."""
    return OPTConfig(
        hidden_size=hidden,
        word_embed_proj_dim=hidden,
        ffn_dim=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        vocab_size=vocabulary,
        architectures=["OPTForCausalLM"],
    )


CONFIGS: dict[str, PretrainedConfig] = {
    "tiny": _opt(64, 2, 4, vocabulary=512),
    "opt-125m": _opt(768, 12, 12),
    "opt-1.3b": _opt(2048, 24, 32),
    "opt-2.7b": _opt(2560, 32, 32),
    "opt-6.7b": _opt(4096, 32, 32),
    "opt-13b": _opt(5120, 40, 40),
    "opt-30b": _opt(7168, 48, 56),
    "opt-66b": _opt(9216, 64, 72),
    "tiny-llama": _llama(64, 2, 4, 128, vocabulary=512),
    "llama-7b": _llama(4096, 32, 32, 11008),
    "smollm2-135m": _llama(
        576,
        30,
        9,
        1536,
        vocabulary=49152,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rope_theta=100_000.0,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    ),
}


@dataclass(frozen=True)
class Model:
    """A model by name, and the folder that holds its config.json alone: SGLang makes up the weights."""

    name: str
    folder: Path

    @classmethod
    def write(cls, name: str, parent: Path) -> Model:
        """Write config.json into a new folder below `parent`."""
        folder = parent / name
        CONFIGS[name].save_pretrained(folder)
        return cls(name, folder)

    @property
    def config(self) -> PretrainedConfig:
        return CONFIGS[self.name]

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each weight in the checkpoint, tied ones once."""
        return {name: tuple(shape) for name, shape in tensor_shapes(self.folder).items()}

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.sizes.values()))

    @property
    def embeddings(self) -> int:
        """Parameters of the tables that are looked up, the head among them: here it is always tied."""
        return sum(math.prod(shape) for name, shape in self.sizes.items() if "embed_" in name)

    @property
    def head(self) -> int:
        """Parameters of the head's matrix."""
        return self.config.vocab_size * self.config.hidden_size

    @property
    def kv_elements(self) -> int:
        """Numbers that a token has in the KV pool, where all layers share one layer's memory."""
        config = self.config
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        return 2 * heads * config.hidden_size // config.num_attention_heads


def check_lengths(name: str, lengths: list[int]) -> None:
    """Raise UserError for lengths that the model has no positions for."""
    room = CONFIGS[name].max_position_embeddings
    for length in lengths:
        if not 2 <= length <= room * 2 // 3:
            raise UserError(f"length {length}: pass 2 to {room * 2 // 3}, since {name} has {room} positions")


def random_examples(model: Model, length: int, count: int) -> list[Example]:
    """Return prompts of random tokens, each followed by one option of one token.

    Their lengths are uniform in [length / 2, 3 length / 2]: a padded batch computes half as much again. The
    same for the same model, length and count.
    """
    draw = np.random.default_rng([SEED, length])
    examples = []
    for size in draw.integers(length // 2, length + length // 2 + 1, count):
        tokens = draw.integers(FIRST_TOKEN, model.config.vocab_size, size + 1).tolist()
        examples.append(Example(tuple(tokens[:-1]), ((tokens[-1],),), 0))
    return examples

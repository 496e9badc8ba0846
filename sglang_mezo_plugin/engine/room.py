"""What the engine reserves for training: pools for the longest batch, not all that is left of the card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from transformers import AutoConfig, PretrainedConfig

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import tensor_shapes
from sglang_mezo_plugin.tasks.example import Example

GIB = 2**30
MARGIN = 1.05  # padded vocabularies, alignment, what the allocator cannot use
BESIDE = GIB // 2  # what the engine allocates beside weights and pools while it loads
# SGLang stops if less is left after loading than it expects. What others on the device take while weights
# load must not do that; the pools are limited by their sizes anyway.
SMALLEST_FRACTION, LARGEST_FRACTION = 0.5, 0.98


@dataclass(frozen=True)
class Room:
    """What the largest forward needs: tokens and sequences in the engine's pools."""

    tokens: int
    sequences: int

    def __mul__(self, copies: int) -> Room:
        return Room(self.tokens * copies, self.sequences * copies)

    def __or__(self, other: Room) -> Room:
        return Room(max(self.tokens, other.tokens), max(self.sequences, other.sequences))


def room_of(example: Example, reuses_prefixes: bool = True) -> Room:
    """Return the most that an example takes, by itself or with any others.

    reuses_prefixes: whether a prompt is computed once for all of its options. A radix tree of n sequences has
    at most 2 n - 1 segments.
    """
    options = len(example.options)
    prompts = 1 if reuses_prefixes else options
    tokens = prompts * len(example.prompt) + sum(len(option) - 1 for option in example.options)
    return Room(tokens, 2 * options if reuses_prefixes else options)


def largest_batch(examples: Iterable[Example], batch_size: int, reuses_prefixes: bool = True) -> Room:
    """Return what the most demanding batch that could be drawn takes, once."""
    rooms = [room_of(example, reuses_prefixes) for example in examples]
    tokens = sorted((room.tokens for room in rooms), reverse=True)
    sequences = sorted((room.sequences for room in rooms), reverse=True)
    repeats, rest = divmod(batch_size, len(rooms))  # a batch may be larger than the data set
    return Room(repeats * sum(tokens) + sum(tokens[:rest]), repeats * sum(sequences) + sum(sequences[:rest]))


def fitting_batches(
    examples: Sequence[Example], room: Room, reuses_prefixes: bool = True
) -> list[list[Example]]:
    """Split examples, in order, into batches that each fit into a room; every example fits by itself."""
    batches: list[list[Example]] = []
    tokens = sequences = 0
    for example in examples:
        need = room_of(example, reuses_prefixes)
        if not batches or tokens + need.tokens > room.tokens or sequences + need.sequences > room.sequences:
            batches.append([])
            tokens = sequences = 0
        batches[-1].append(example)
        tokens, sequences = tokens + need.tokens, sequences + need.sequences
    return batches


def pool_args(
    checkpoint: Path,
    dtype: torch.dtype,
    room: Room,
    slot_elements: int,
    available: float,
    tp_size: int = 1,
) -> Mapping[str, float | int]:
    """Return mem_fraction_static, max_total_tokens and max_running_requests for SGLang.

    slot_elements: numbers that the LoRA pool holds. available: bytes free on the device. tp_size: devices
    that share weights and pools evenly. UserError if weights and pools alone are more than that.
    """
    weights = sum(prod(shape) for shape in tensor_shapes(checkpoint).values()) * dtype.itemsize
    static = weights + room.tokens * _bytes_per_token(checkpoint, dtype) + slot_elements * dtype.itemsize
    static /= tp_size
    if static > available:
        raise UserError(
            f"weights and pools take {static / GIB:.1f} GiB, and {available / GIB:.1f} GiB are free: pass a "
            "smaller --dtype or --batch-size, or train a smaller model"
        )
    fraction = max(SMALLEST_FRACTION, (MARGIN * static + BESIDE) / available)
    return {
        "mem_fraction_static": round(min(LARGEST_FRACTION, fraction), 4),
        "max_total_tokens": room.tokens,
        "max_running_requests": room.sequences,
    }


def _bytes_per_token(checkpoint: Path, dtype: torch.dtype) -> int:
    config = AutoConfig.from_pretrained(checkpoint)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * _pooled_layers(config) * heads * head_dim * dtype.itemsize


def _pooled_layers(config: PretrainedConfig) -> int:
    """Return how many layers have memory of their own in the pool (see engine/one_layer_pool.py)."""
    plain = set(getattr(config, "layer_types", None) or ()) <= {"full_attention"}
    return 1 if plain and getattr(config, "kv_lora_rank", None) is None else config.num_hidden_layers

"""What a model's configuration limits: how many positions it knows, and how many tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import one_line

if TYPE_CHECKING:
    from transformers import PretrainedConfig

UNSAID_LENGTH = 2048
"""Positions that SGLang has room for where a config.json does not say how many the model knows."""

# The names that architectures have for it, the most common one first.
LENGTHS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
    "model_max_length",
)


def context_length(checkpoint: Path) -> int | None:
    """Return the number of positions that a model knows; None if its config.json does not say.

    UserError if transformers does not know the model.
    """
    config = _text_config(checkpoint)
    found = (getattr(config, name, None) for name in LENGTHS)
    return next((length for length in found if isinstance(length, int) and length > 0), None)


def vocab_size(checkpoint: Path) -> int | None:
    """Return how many tokens a model has embeddings for; None if its config.json does not say.

    UserError if transformers does not know the model.
    """
    return getattr(_text_config(checkpoint), "vocab_size", None)


def _text_config(checkpoint: Path) -> PretrainedConfig:
    """Return the configuration of the language model, which models of several media have as a part."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(checkpoint).get_text_config()
    except Exception as error:  # transformers raises all kinds
        raise UserError(
            f"{checkpoint / 'config.json'} is of no model that transformers knows ({one_line(error)}): name "
            "another model"
        ) from error

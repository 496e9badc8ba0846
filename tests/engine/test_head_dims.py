"""Every head dimension that OPT comes in, with the attention backend of this host."""

from typing import Any

import pytest
from sglang.test.tiny_model_utils import TinyModelRunner, assert_scores_match, load_reference, save_tiny_model
from transformers import OPTConfig


@pytest.mark.parametrize("head_dim", [64, 80, 128])  # 80: OPT-2.7B; 128: from 6.7B on
def test_scores_like_transformers(head_dim: int, engine_args: dict[str, Any], atol: float) -> None:
    config = OPTConfig(
        vocab_size=131,
        hidden_size=2 * head_dim,
        word_embed_proj_dim=2 * head_dim,
        ffn_dim=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
    )
    path = save_tiny_model(config)
    with TinyModelRunner(path, **engine_args) as runner:
        assert_scores_match(runner, load_reference(path), atol=atol)

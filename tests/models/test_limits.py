"""Positions and tokens of a model, by the names that architectures have for them."""

import json
from pathlib import Path
from typing import Any

import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.limits import context_length, vocab_size


def write(folder: Path, config: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"model_type": "opt", "max_position_embeddings": 160}, 160),
        ({"model_type": "opt", "max_position_embeddings": 160, "seq_length": 32}, 160),
        ({"model_type": "gpt2", "n_positions": 161}, 161),
        ({"model_type": "bloom", "seq_length": 162}, 162),
        ({"model_type": "mpt", "max_seq_len": 163}, 163),
        (
            {"model_type": "llava", "text_config": {"model_type": "llama", "max_position_embeddings": 164}},
            164,
        ),
        ({"model_type": "bloom", "n_ctx": 165}, 165),
        ({"model_type": "bloom", "seq_length": None}, None),
        ({"model_type": "bloom", "seq_length": -1}, None),
        ({"model_type": "bloom"}, None),
    ],
    ids=str,
)
def test_context_length(tmp_path: Path, config: dict[str, Any], length: int | None) -> None:
    assert context_length(write(tmp_path, config)) == length


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "opt", "vocab_size": 300},
        {"model_type": "bloom", "vocab_size": 300},
        {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 300}},
    ],
    ids=str,
)
def test_vocab_size(tmp_path: Path, config: dict[str, Any]) -> None:
    assert vocab_size(write(tmp_path, config)) == 300


@pytest.mark.parametrize("config", [{"model_type": "unheard-of"}, {}])
def test_models_that_are_not_known(tmp_path: Path, config: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is of no model that transformers knows") as raised:
        context_length(write(tmp_path, config))
    assert "\n" not in str(raised.value)

"""Adapters as PEFT users make them, on each kind of model: SGLang scores like PEFT on transformers."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sglang.test.tiny_model_utils import (
    TinyModelRunner,
    assert_scores_match,
    load_reference,
    save_tiny_adapter,
    save_tiny_model,
)
from transformers import LlamaConfig, OPTConfig, PretrainedConfig, Qwen2Config

LAYERS = 3
SIZES = {
    "vocab_size": 131,  # not a multiple of 64
    "hidden_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


@dataclass(frozen=True)
class Architecture:
    config: PretrainedConfig
    layers: str  # where the checkpoint has them
    out: str  # the attention's output projection
    mlp: list[str] = field(hash=False)
    mlp_name: str = ""


ARCHITECTURES = {
    "opt": Architecture(
        OPTConfig(**SIZES, word_embed_proj_dim=64, ffn_dim=96),
        "model.decoder.layers",
        "out_proj",
        ["fc1", "fc2"],
    ),
    "llama": Architecture(
        LlamaConfig(**SIZES, intermediate_size=96, num_key_value_heads=2),
        "model.layers",
        "o_proj",
        ["gate_proj", "up_proj", "down_proj"],
        "mlp.",
    ),
    "qwen2": Architecture(
        Qwen2Config(**SIZES, intermediate_size=96, num_key_value_heads=2, tie_word_embeddings=True),
        "model.layers",
        "o_proj",
        ["gate_proj", "up_proj", "down_proj"],
        "mlp.",
    ),
}

# Name of the case -> the LoraConfig of each adapter in it.
CASES = {
    "all_linears": lambda a: [{"target_modules": ["q_proj", "k_proj", "v_proj", a.out, *a.mlp]}],
    "q_and_v": lambda a: [{"target_modules": ["q_proj", "v_proj"]}],
    "q_alone": lambda a: [{"target_modules": ["q_proj"]}],
    "k_alone": lambda a: [{"target_modules": ["k_proj"]}],
    "out_alone": lambda a: [{"target_modules": [a.out]}],
    "mlp": lambda a: [{"target_modules": a.mlp}],
    "mlp_first_alone": lambda a: [{"target_modules": a.mlp[:1]}],
    "mlp_second_alone": lambda a: [{"target_modules": a.mlp[1:2]}],
    "layers_to_transform": lambda a: [{"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]}],
    "explicit_paths": lambda a: [
        {
            "target_modules": [
                f"{a.layers}.0.self_attn.q_proj",
                f"{a.layers}.1.self_attn.{a.out}",
                f"{a.layers}.2.{a.mlp_name}{a.mlp[1]}",
            ]
        }
    ],
    "two_adapters": lambda a: [
        {"target_modules": ["q_proj", "v_proj", *a.mlp], "r": 8},
        {"target_modules": ["k_proj", a.out], "r": 2, "layers_to_transform": [0, 2]},
    ],
    "embedding_and_head": lambda a: [{"target_modules": ["embed_tokens", "lm_head", "q_proj"]}],
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return ARCHITECTURES[request.param]


@pytest.fixture(scope="module")
def model_path(architecture: Architecture, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_tiny_model(architecture.config, str(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("case", CASES)
def test_scores_like_peft(
    architecture: Architecture,
    model_path: str,
    case: str,
    engine_args: dict[str, Any],
    atol: float,
    tmp_path: Path,
) -> None:
    adapters = {
        f"adapter{i}": save_tiny_adapter(
            model_path, str(tmp_path / f"adapter{i}"), seed=i, **{"r": 4, "lora_alpha": 8, **lora_config}
        )
        for i, lora_config in enumerate(CASES[case](architecture))
    }
    tuned = [load_reference(model_path, path) for path in adapters.values()]
    with TinyModelRunner(
        model_path, enable_lora=True, lora_paths=adapters, max_loras_per_batch=3, **engine_args
    ) as runner:
        ids = {ref.lora_name: ref.lora_id for ref in runner.model_runner.lora_manager.lora_refs.values()}
        lora_ids = [ids[name] for name in adapters]
        # Each adapter and the base model, in one batch.
        assert_scores_match(
            runner,
            [tuned[0], load_reference(model_path), tuned[-1]],
            lora_ids=[lora_ids[0], None, lora_ids[-1]],
            atol=atol,
        )

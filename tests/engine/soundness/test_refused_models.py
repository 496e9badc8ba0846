"""Models that SGLang computes otherwise than transformers does: refused by name when they are opened.

Each is one that public checkpoints have. What is refused only beyond a length is right below it.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from sglang.test.tiny_model_utils import load_reference
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPTJConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PretrainedConfig,
)

from sglang_mezo_plugin.engine.session import open_session
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Example

WINDOW = 8
SIZES = {**tiny_models.SIZES, "vocab_size": tiny_models.VOCABULARY}
GROUPED = {**SIZES, **tiny_models.GROUPED}
HEADS_OF_16 = {**GROUPED, "head_dim": 16, "query_pre_attn_scalar": 16}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LAYERS = {"vocab_size": tiny_models.VOCABULARY, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 96}

DROPPED = {
    "lm_head.bias: SGLang's PhiForCausalLM loads it and does not use it": PhiConfig(
        intermediate_size=256, **SIZES
    ),
    "lm_head.bias: SGLang's GPTJForCausalLM loads it and does not use it": GPTJConfig(rotary_dim=8, **LAYERS),
    "model.layers.0.mlp.down_proj.bias and 5 more tensors of .*: SGLang's LlamaForCausalLM drops them": (
        LlamaConfig(mlp_bias=True, **GROUPED)
    ),
}
WINDOWED = {
    "no window": MistralConfig(sliding_window=WINDOW, **GROUPED),
    "a window of one more token": Cohere2Config(sliding_window=WINDOW, **TOKENS, **GROUPED),
}


@pytest.fixture
def opened(tmp_path: Path, engine_args: dict[str, Any]) -> Any:
    def open_model(config: PretrainedConfig, examples: list[Example], **options: str) -> Any:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(tmp_path)
        words = [f"--{name.replace('_', '-')}={value}" for name, value in {**engine_args, **options}.items()]
        return open_session(
            tmp_path,
            None,
            trains=False,
            examples=examples,
            batch_size=len(examples),
            dtype=torch.float32,
            server_args=words,
            report=lambda line: None,
        )

    return open_model


def examples(length: int) -> list[Example]:
    """Two examples, the longer of which has `length` tokens, and one more that is only predicted."""
    return [Example(tuple(range(3, 3 + size)), ((size,),), 0) for size in (2, length)]


@pytest.mark.parametrize("message", DROPPED)
def test_a_weight_that_is_not_used(message: str, opened: Any) -> None:
    with pytest.raises(UserError, match=message), opened(DROPPED[message], examples(4)):
        pass


@pytest.mark.parametrize("name", WINDOWED)
def test_a_window_that_is_not_kept(name: str, opened: Any, tmp_path: Path, atol: float) -> None:
    with (
        pytest.raises(
            UserError, match=f"has {WINDOW + 1} tokens, and beyond {WINDOW} .*-length {WINDOW} --trunc"
        ),
        opened(WINDOWED[name], examples(WINDOW + 1)),
    ):
        pass
    with opened(WINDOWED[name], given := examples(WINDOW)) as session:
        ((_, ours),) = session.score(given)
    theirs = tiny_models.reference_scores(load_reference(str(tmp_path)), given)
    assert tiny_models.largest_difference(ours, theirs) < 10 * atol


def test_a_window_that_is_kept(opened: Any, tmp_path: Path, atol: float) -> None:
    given = examples(3 * WINDOW)
    with opened(Gemma3TextConfig(sliding_window=WINDOW, **HEADS_OF_16), given) as session:
        ((_, ours),) = session.score(given)
    theirs = tiny_models.reference_scores(load_reference(str(tmp_path)), given)
    assert tiny_models.largest_difference(ours, theirs) < 10 * atol


CAPPED = {
    "config.json has attn_logit_softcapping 20.0, and SGLang's Gemma3ForCausalLM has 0.0": Gemma3TextConfig(
        attn_logit_softcapping=20.0, **HEADS_OF_16
    ),
    "Gemma2ForCausalLM caps the logits of its attention, and --attention-backend torch_native": Gemma2Config(
        hidden_act="gelu_pytorch_tanh", **HEADS_OF_16
    ),
}


@pytest.mark.parametrize("message", CAPPED)
def test_a_cap_that_is_left_out(message: str, opened: Any) -> None:
    with (
        pytest.raises(UserError, match=message),
        opened(CAPPED[message], examples(4), attention_backend="torch_native"),
    ):
        pass

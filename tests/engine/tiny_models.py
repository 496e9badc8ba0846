"""Small models with random weights, examples for them, and what transformers makes of both."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from one_tensor import direction_into, perturb_into
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.test.tiny_model_utils import load_reference, save_tiny_model
from transformers import (
    GPT2Config,
    LlamaConfig,
    Olmo2Config,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from sglang_mezo_plugin.engine.runner import open_runner
from sglang_mezo_plugin.models.checkpoint import tensor_shapes
from sglang_mezo_plugin.noise import Distribution, Region
from sglang_mezo_plugin.tasks.example import Batch, Example
from sglang_mezo_plugin.training.objectives import Scores

VOCABULARY = 131
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 96}
GROUPED = {"intermediate_size": 96, "num_key_value_heads": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "opt": OPTConfig(vocab_size=VOCABULARY, word_embed_proj_dim=64, ffn_dim=96, **SIZES),
    "opt-gelu": OPTConfig(
        vocab_size=VOCABULARY, word_embed_proj_dim=64, ffn_dim=96, activation_function="gelu", **SIZES
    ),
    "opt-post-norm": OPTConfig(
        vocab_size=VOCABULARY,
        word_embed_proj_dim=32,
        ffn_dim=96,
        activation_function="gelu",
        do_layer_norm_before=False,
        **SIZES,
    ),
    "llama": LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=False, **GROUPED, **SIZES),
    "qwen2": Qwen2Config(vocab_size=VOCABULARY, tie_word_embeddings=True, **GROUPED, **SIZES),
    "qwen3": Qwen3Config(vocab_size=VOCABULARY, head_dim=16, tie_word_embeddings=False, **GROUPED, **SIZES),
    "olmo2": Olmo2Config(
        vocab_size=VOCABULARY, bos_token_id=1, eos_token_id=2, pad_token_id=0, **GROUPED, **SIZES
    ),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=96),
}
ARCHITECTURES = ("opt", "opt-post-norm", "llama", "qwen2", "qwen3", "olmo2", "gpt2")
# ReLU has a kink at 0: within eps of it, a difference quotient and a derivative are two things. OLMo2 has
# norms after its small random products, and so a curvature of more than 1% at eps = 1e-3.
SMOOTH = ("opt-gelu", "opt-post-norm", "llama", "qwen2", "qwen3", "gpt2")


@cache
def saved(name: str, folder: Path) -> str:
    path = folder / name
    path.mkdir()
    return save_tiny_model(CONFIGS[name], str(path))


def opened(path: str, dtype: str, engine_args: dict[str, Any]) -> AbstractContextManager[ModelRunner]:
    """Open a runner with room for the batches of these tests."""
    return open_runner(
        path,
        dtype=dtype,
        skip_tokenizer_init=True,
        mem_fraction_static=0.3,
        max_total_tokens=4096,
        **engine_args,
    )


def make_batch(size: int, seed: int = 0) -> Batch:
    """Ragged prompts, one to four options of one to five tokens, some of which begin alike."""
    draw = np.random.default_rng(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw.integers(3, VOCABULARY, draw.integers(low, high + 1)).tolist())

    examples = []
    for _ in range(size):
        start = tokens(1, 2)
        options = {start[:1]} | {
            start + tokens(0, 3) if draw.random() < 0.5 else tokens(1, 5) for _ in range(3)
        }
        chosen = sorted(options)[: draw.integers(1, 5)]
        examples.append(Example((2, *tokens(0, 30)), tuple(chosen), int(draw.integers(len(chosen)))))
    return Batch.of(examples)


@torch.no_grad()
def reference_scores(model: PreTrainedModel, examples: Sequence[Example]) -> Scores:
    """Score each option in a forward of its own."""

    def score(prompt: tuple[int, ...], option: tuple[int, ...]) -> np.ndarray:
        logits = model(torch.tensor([prompt + option[:-1]])).logits[0, len(prompt) - 1 :]
        return logits.double().log_softmax(-1).gather(1, torch.tensor(option)[:, None])[:, 0].numpy()

    return [[score(example.prompt, option) for option in example.options] for example in examples]


@contextmanager
def moved(
    model: PreTrainedModel, path: str, seed: int, coefficient: float, distribution: Distribution
) -> Iterator[None]:
    """Really move every weight of the checkpoint by coefficient * z, and put it back."""
    tensors = model.state_dict()
    kept = {name: tensors[name].clone() for name in tensor_shapes(Path(path))}
    for name, base in kept.items():
        region = Region.whole(name, base.shape)
        perturb_into(tensors[name], base, seed, region, coefficient, distribution)
    try:
        yield
    finally:
        for name, base in kept.items():
            tensors[name].copy_(base)


def gradient(path: str, batch: Batch, objective: str) -> dict[str, torch.Tensor]:
    """Return the loss's gradient by autograd, in fp64, by the names in the checkpoint."""
    model = load_reference(path).double()
    total: torch.Tensor | float = 0.0
    weight = 0
    for example in batch.examples:
        means, sums = [], []
        for option in example.options:
            logits = model(torch.tensor([example.prompt + option[:-1]])).logits[0, len(example.prompt) - 1 :]
            logprobs = logits.log_softmax(-1).gather(1, torch.tensor(option)[:, None])
            means.append(logprobs.mean())
            sums.append(logprobs.sum())
        if objective == "completion":
            total, weight = total - sums[example.label], weight + len(example.options[example.label])
        else:
            total, weight = total - torch.stack(means).log_softmax(0)[example.label], weight + 1
    (total / weight).backward()
    parameters = dict(model.named_parameters())
    return {name: parameters[name].grad for name in tensor_shapes(Path(path))}


def directional_derivative(
    gradients: dict[str, torch.Tensor], seed: int, distribution: Distribution
) -> tuple[float, float]:
    """Return the sum of gradient * z, and its standard deviation over directions: the gradient's length."""
    total = square = 0.0
    for name, grad in gradients.items():
        z = torch.empty(grad.shape)
        direction_into(z, seed, Region.whole(name, grad.shape), distribution)
        total += float((grad * z).sum())
        square += float((grad * grad).sum())
    return total, square**0.5


def largest_difference(ours: Scores, theirs: Scores) -> float:
    pairs = [
        (a, b)
        for options, others in zip(ours, theirs, strict=True)
        for a, b in zip(options, others, strict=True)
    ]
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float(np.abs(a - b).max()) for a, b in pairs)

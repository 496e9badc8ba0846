"""The whole of training next to a plain MeZO on transformers: real weights and text, the same directions."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from one_tensor import perturb_into
from peft import PeftModel, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sglang_mezo_plugin import train
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import read_tensors
from sglang_mezo_plugin.noise import Region
from sglang_mezo_plugin.tasks.example import Example
from sglang_mezo_plugin.tasks.records import read_records
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.tasks.sst2 import sst2
from sglang_mezo_plugin.tasks.tokenize import tokenize
from sglang_mezo_plugin.training import spsa

BATCH_SIZE, SEED = 4, 5
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def train_file(rotten_tomatoes: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the shortest reviews to a file: a step costs as much as its tokens."""
    lines = [line for line in rotten_tomatoes[0].read_text().splitlines() if len(line) < 60]
    file = tmp_path_factory.mktemp("text") / "short.jsonl"
    file.write_text("\n".join(lines[:400]) + "\n")
    return file


@pytest.mark.parametrize(
    ("mode", "steps", "learning_rate", "eps"),
    [("lora", 300, 1e-3, 1e-2), pytest.param("full", 50, 1e-7, 1e-3, marks=pytest.mark.long)],
)
def test_the_loss_curves_agree(
    smollm2_path: Path,
    train_file: Path,
    tmp_path: Path,
    mode: str,
    steps: int,
    learning_rate: float,
    eps: float,
) -> None:
    options = {
        "model-path": smollm2_path,
        "train-file": train_file,
        "task": "sst2",
        "mode": mode,
        "steps": steps,
        "batch-size": BATCH_SIZE,
        "learning-rate": learning_rate,
        "eps": eps,
        "seed": SEED,
        "output-dir": tmp_path / "run",
        "device": "cpu",
    }
    train.main([word for name, value in options.items() for word in (f"--{name}", str(value))])
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    model, tensors, write = adapted(smollm2_path) if mode == "lora" else whole(smollm2_path)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    sampler = Sampler(tokenize(read_records(str(train_file), sst2, None), tokenizer, 2048), BATCH_SIZE, SEED)
    assert [row["step"] for row in metrics] == list(range(1, steps + 1))
    for row in metrics:
        (seed,) = spsa.direction_seeds(SEED, row["step"], 1)
        examples = sampler.batch(row["step"]).examples
        losses = []
        for coefficient in (eps, -eps):
            write(moved(tensors, seed, coefficient))
            losses.append(classification_loss(model, examples))
        if row["step"] <= 50:
            assert [row["loss_plus"], row["loss_minus"]] == pytest.approx(losses, abs=1e-3)
        projected_grad = (losses[0] - losses[1]) / (2 * eps)
        tensors = moved(tensors, seed, -learning_rate * projected_grad)
    assert row["loss_plus"] == pytest.approx(losses[0], abs=0.02)


def adapted(path: Path) -> tuple[PreTrainedModel, Tensors, Callable[[Tensors], object]]:
    """Return PEFT's model, the adapter that training begins with, and what writes one into the model."""
    adapter = Adapter.fresh(path, SEED)
    model = PeftModel(AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32), adapter.config)
    return model, adapter.tensors, lambda tensors: set_peft_model_state_dict(model, tensors)


def whole(path: Path) -> tuple[PreTrainedModel, Tensors, Callable[[Tensors], object]]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model, dict(read_tensors(path)), lambda tensors: model.load_state_dict(tensors, strict=False)


def moved(tensors: Tensors, seed: int, coefficient: float) -> Tensors:
    result = {}
    for name, tensor in tensors.items():
        result[name] = torch.empty_like(tensor)
        perturb_into(result[name], tensor, seed, Region.whole(name, tensor.shape), coefficient)
    return result


@torch.no_grad()
def classification_loss(model: PreTrainedModel, examples: tuple[Example, ...]) -> float:
    """Cross-entropy over two options of one token each, of right-padded prompts: what pads comes later."""
    longest = max(len(example.prompt) for example in examples)
    padded = torch.tensor([[*e.prompt, *[0] * (longest - len(e.prompt))] for e in examples])
    logits = model(padded).logits
    total = 0.0
    for row, example in zip(logits, examples, strict=True):
        options = row[len(example.prompt) - 1, [token for (token,) in example.options]]
        total -= float(options.double().log_softmax(0)[example.label])
    return total / len(examples)

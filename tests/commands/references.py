"""What transformers makes of the rows of an evaluation, with a forward for each option."""

import math
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel


def load(model: Path, adapter: Path | None = None) -> PreTrainedModel | PeftModel:
    """Load a checkpoint, which must have all weights and no others, and a PEFT adapter; compute in fp32."""
    loaded, report = AutoModelForCausalLM.from_pretrained(
        model, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    return PeftModel.from_pretrained(loaded, adapter) if adapter else loaded


def token_ids(tokenizer_path: Path, rows: list[dict[str, Any]]) -> list[list[tuple[list[int], list[int]]]]:
    """Return the ids of prompt and option, for each option of each row."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path)
    return [
        [(tokenizer(row["prompt"])["input_ids"], tokenizer(option)["input_ids"]) for option in row["options"]]
        for row in rows
    ]


@torch.no_grad()
def option_scores(
    model: torch.nn.Module, tokenizer_path: Path, rows: list[dict[str, Any]]
) -> list[list[float]]:
    """Return each option's mean log-probability of a token, for each row."""

    def score(prompt: list[int], option: list[int]) -> float:
        logits = model(torch.tensor([prompt + option[:-1]])).logits[0, len(prompt) - 1 :]
        logprobs = logits.double().log_softmax(-1).gather(1, torch.tensor(option)[:, None])
        return float(logprobs.mean())

    return [[score(*ids) for ids in options] for options in token_ids(tokenizer_path, rows)]


def loss_and_accuracy(scores: list[list[float]], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the mean cross-entropy over options, and the share of rows whose right option scores highest."""
    losses, right = [], 0
    for options, row in zip(scores, rows, strict=True):
        losses.append(math.log(sum(map(math.exp, options))) - options[row["label"]])
        right += max(options) == options[row["label"]]
    return {"loss": sum(losses) / len(rows), "accuracy": right / len(rows)}

"""Objectives against hand-computed values, transformers' loss, and torch's cross-entropy."""

import math
import re

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers.loss.loss_utils import ForCausalLMLoss

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Example, Record
from sglang_mezo_plugin.training.objectives import (
    OBJECTIVES,
    Scores,
    accuracy,
    check_objective,
    classification,
    completion,
    default_objective,
    loss,
    metrics,
)


def scored(*options: list[float], label: int = 0) -> tuple[Example, list[NDArray[np.float32]]]:
    """An example whose options' tokens have these log-probabilities."""
    ids = tuple(tuple(range(len(option))) for option in options)
    return Example((1,), ids, label), [np.array(option, dtype=np.float32) for option in options]


def together(*pairs: tuple[Example, list[NDArray[np.float32]]]) -> tuple[list[Example], Scores]:
    return [example for example, _ in pairs], [scores for _, scores in pairs]


def test_completion_is_the_token_mean_of_transformers() -> None:
    """Two sequences with 3 and 7 labelled tokens: not the mean of two means."""
    logits = torch.randn(2, 12, 50, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(50, (2, 12), generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    labels[0, :9] = labels[1, :5] = -100
    logprobs = logits.log_softmax(-1)[:, :-1].gather(2, tokens[:, 1:, None])[..., 0]
    pairs = [scored(logprobs[0, -3:].tolist()), scored(logprobs[1, -7:].tolist())]
    expected = ForCausalLMLoss(logits.double(), labels, vocab_size=50).item()
    assert loss(completion, *together(*pairs)) == pytest.approx(expected, rel=1e-6)
    assert completion(*together(*pairs))[1] == 10.0


@pytest.mark.parametrize(
    ("example", "total", "weight"),
    [
        (scored([-2.0, -4.5]), 6.5, 2.0),
        (scored([-1.0], [-2.0, -4.5, -0.5], label=1), 7.0, 3.0),
        (scored([-(2.0**24)] + [-1.0] * 100), 2.0**24 + 100, 101.0),  # fp32 would lose every -1
    ],
)
def test_completion(example: tuple[Example, list[NDArray[np.float32]]], total: float, weight: float) -> None:
    assert completion(*together(example)) == (total, weight)


@pytest.mark.parametrize(
    ("options", "label", "expected"),
    [
        (([-1.0, -3.0], [-2.0]), 1, math.log(2)),  # both -2 a token, though -4 and -2 together
        (([-2000.0], [-1000.0], [-3000.0]), 0, 1000.0),  # exp(-1000) is 0 in fp64
        (([-5.0, -5.0], [-5.0], [-5.0] * 7), 2, math.log(3)),
        (([0.0], [-math.inf]), 1, math.inf),
    ],
)
def test_classification(options: tuple[list[float], ...], label: int, expected: float) -> None:
    total, weight = classification(*together(scored(*options, label=label)))
    assert (total, weight) == (pytest.approx(expected, rel=1e-15), 1.0)


def test_classification_is_the_cross_entropy_of_torch() -> None:
    generator = np.random.default_rng(0)
    pairs = [
        scored(*(list(-generator.exponential(3, size)) for size in (1, 4, 2)), label=label)
        for label in (0, 1, 2, 1)
    ]
    means = [[float(option.astype(np.float64).mean()) for option in options] for _, options in pairs]
    labels = torch.tensor([example.label for example, _ in pairs])
    expected = torch.nn.functional.cross_entropy(torch.tensor(means, dtype=torch.float64), labels).item()
    assert loss(classification, *together(*pairs)) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("options", "label", "right"),
    [
        (([-1.0], [-2.0]), 0, 1.0),
        (([-1.0], [-2.0]), 1, 0.0),
        (([-1.0, -1.0, -1.0], [-2.0]), 0, 1.0),  # by sums, option 1 would win
        (([-1.5], [-1.0, -2.0]), 0, 1.0),  # a tie goes to the first
        (([-1.5], [-1.0, -2.0]), 1, 0.0),
        (([-math.inf], [-1.0]), 1, 1.0),
    ],
)
def test_accuracy(options: tuple[list[float], ...], label: int, right: float) -> None:
    assert accuracy(*together(scored(*options, label=label))) == (-right, 1.0)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("label", [0, 1])
def test_nan_is_not_hidden(name: str, label: int) -> None:
    both = scored([math.nan], [math.nan], label=label)
    assert math.isnan(loss(OBJECTIVES[name], *together(scored([-1.0], [-2.0]), both)))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_batches_do_not_change_the_mean(name: str) -> None:
    """Exactly: the values are multiples of 1/4, so that every sum is exact but the logarithms'."""
    pairs = [scored([-0.25 * i] * (1 + i % 3), [-1.0, -0.5 * (i % 4)], label=i % 2) for i in range(7)]
    parts = [together(*pairs[:1]), together(*pairs[1:6]), together(*pairs[6:])]
    one = metrics(OBJECTIVES[name], [together(*pairs)])
    several = metrics(OBJECTIVES[name], iter(parts))
    assert several["accuracy"] == one["accuracy"]
    assert several["loss"] == (
        one["loss"] if name != "classification" else pytest.approx(one["loss"], rel=1e-15)
    )
    assert one["loss"] == loss(OBJECTIVES[name], *together(*pairs))


def test_accuracy_is_of_examples_with_a_choice() -> None:
    single, right, wrong = scored([-3.0]), scored([-1.0], [-2.0]), scored([-1.0], [-2.0], label=1)
    assert metrics(completion, [together(single), together(single)]) == {"loss": 3.0}
    result = metrics(completion, [together(single, right), together(single, wrong)])
    assert result == {"loss": 2.25, "accuracy": 0.5}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_scores_of_another_batch_are_refused(name: str) -> None:
    examples, scores = together(scored([-1.0], [-2.0]), scored([-1.0], [-2.0]))
    with pytest.raises(ValueError, match="zip"):
        loss(OBJECTIVES[name], examples, scores[:1])


COMPLETION = Record("a", ("b",), 0, "d.jsonl line 1")
CHOICE = Record("a", ("b", "c"), 1, "d.jsonl line 2")


def test_objective_by_default() -> None:
    assert default_objective([COMPLETION, COMPLETION]) == "completion"
    assert default_objective([CHOICE, CHOICE]) == "classification"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [COMPLETION, COMPLETION, CHOICE],
            "d.jsonl line 2: options, but d.jsonl line 1 has a completion: keep",
        ),
        ([CHOICE, CHOICE, COMPLETION], "d.jsonl line 1: a completion, but d.jsonl line 2 has options: keep"),
    ],
)
def test_a_mixture_has_no_default(records: list[Record], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        default_objective(records)


def test_objectives_that_would_be_constant_are_refused() -> None:
    check_objective("completion", [COMPLETION, CHOICE])
    for name in ("classification", "accuracy"):
        check_objective(name, [CHOICE])
        with pytest.raises(UserError, match=f"d.jsonl line 1: --objective {name} needs records with"):
            check_objective(name, [CHOICE, COMPLETION])

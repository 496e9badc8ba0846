"""Objectives: from log-probabilities of options to the one number that training lowers.

`completion` and `classification` are the two losses of MeZO (Malladi et al. 2023, arXiv:2305.17333),
`accuracy` its non-differentiable objective (section 3.3). Each returns (total, weight) in fp64: a loss is the
sum of totals over the sum of weights, so a data set scored in several batches has the mean that it would
have in one. A log-probability of NaN makes the total NaN.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Example, Record

Scores = Sequence[Sequence[NDArray[np.float32]]]
"""scores[example][option]: [tokens] fp32, natural log-probabilities of the option's tokens, each of them
given the prompt and the tokens before."""

Objective = Callable[[Sequence[Example], Scores], tuple[float, float]]


def completion(examples: Sequence[Example], scores: Scores) -> tuple[float, float]:
    """Return minus the log-probability of all labelled options, and their tokens.

    Total / weight is the token mean over the batch that transformers computes for `labels`.
    """
    right = [options[example.label] for example, options in zip(examples, scores, strict=True)]
    total = -sum(float(logprobs.sum(dtype=np.float64)) for logprobs in right)
    return total, float(sum(len(logprobs) for logprobs in right))


def classification(examples: Sequence[Example], scores: Scores) -> tuple[float, float]:
    """Return the cross-entropy over length-normalised options, and the number of examples.

    The logit of an option is the mean log-probability of its tokens: the reference implementation's
    `train_as_classification`.
    """
    total = 0.0
    for example, options in zip(examples, scores, strict=True):
        logits = _length_normalised(options)
        with np.errstate(invalid="ignore"):  # the trainer speaks of NaN, once
            total += float(np.logaddexp.reduce(logits) - logits[example.label])
    return total, float(len(examples))


def accuracy(examples: Sequence[Example], scores: Scores) -> tuple[float, float]:
    """Return minus the number of examples whose right option scores highest, and the number of examples.

    Options are compared by the mean log-probability of their tokens; among equals the first one wins.
    """
    total = 0.0
    for example, options in zip(examples, scores, strict=True):
        logits = _length_normalised(options)
        # argmax takes NaN for the largest: a model that diverged would look right, or wrong, at random.
        total -= float(logits.argmax() == example.label) if not np.isnan(logits).any() else np.nan
    return total, float(len(examples))


OBJECTIVES: dict[str, Objective] = {
    "completion": completion,
    "classification": classification,
    "accuracy": accuracy,
}


def loss(objective: Objective, examples: Sequence[Example], scores: Scores) -> float:
    """Return the objective's mean over one batch, fp64; scores as of `Scores`, one entry an example."""
    total, weight = objective(examples, scores)
    return total / weight


def metrics(objective: Objective, batches: Iterable[tuple[Sequence[Example], Scores]]) -> dict[str, float]:
    """Return {"loss", "accuracy"} over all batches, which are read one at a time and must hold an example.

    accuracy: the share, in [0, 1], of the examples with several options that get the highest score for the
    right one; absent if there are none, since a single option is always the highest.
    """
    total = weight = right = choices = 0.0
    for examples, scores in batches:
        batch_total, batch_weight = objective(examples, scores)
        total, weight = total + batch_total, weight + batch_weight
        pairs = [pair for pair in zip(examples, scores, strict=True) if len(pair[0].options) > 1]
        batch_right, batch_choices = accuracy([pair[0] for pair in pairs], [pair[1] for pair in pairs])
        right, choices = right - batch_right, choices + batch_choices
    result = {"loss": total / weight}
    if choices:
        result["accuracy"] = right / choices
    return result


def default_objective(records: Sequence[Record]) -> str:
    """Return "classification" if the records have options, "completion" if they have completions.

    UserError, naming the first record that differs from the first one, if there are both.
    """
    several = len(records[0].options) > 1
    for record in records:
        if (len(record.options) > 1) != several:
            kinds = ("a completion", "options") if several else ("options", "a completion")
            raise UserError(
                f"{record.where}: {kinds[0]}, but {records[0].where} has {kinds[1]}: keep the two kinds in "
                "separate files, or pass --objective completion"
            )
    return "classification" if several else "completion"


def check_objective(name: str, records: Sequence[Record]) -> None:
    """Raise UserError if a record cannot teach objective `name` anything.

    classification and accuracy are constant, so their gradient is zero, for a record with one option.
    """
    for record in records:
        if name != "completion" and len(record.options) == 1:
            raise UserError(
                f'{record.where}: --objective {name} needs records with "options", this one has a '
                "completion: pass --objective completion"
            )


def _length_normalised(options: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    return np.array([logprobs.mean(dtype=np.float64) for logprobs in options])

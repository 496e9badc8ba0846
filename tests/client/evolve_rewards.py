"""Rewards of what the fake server says: "NUMBER says PROMPT", the number being an adapter's first element."""

from collections.abc import Mapping
from typing import Any

OPTIMUM = 0.25


def number(completion: str) -> float:
    return float(completion.split()[0])


def parabola(prompt: str, completion: str, record: Mapping[str, Any]) -> float:
    """Greatest where an adapter's first element is the optimum; prompts weigh differently."""
    assert completion.split(" says ")[1] == prompt
    return -record["weight"] * (number(completion) - OPTIMUM) ** 2


def fails_on_b(prompt: str, completion: str, record: Mapping[str, Any]) -> float:
    if prompt == "b":
        raise KeyError("no such thing")
    return 0.0


def nan_on_b(prompt: str, completion: str, record: Mapping[str, Any]) -> float:
    return float("nan") if prompt == "b" else 0.0


def share(prompt: str, completion: str, record: Mapping[str, Any]) -> float:
    """The share of one token in the completion, where each token is one letter."""
    return completion.count(record["letter"]) / record["tokens"]


def huge(prompt: str, completion: str, record: Mapping[str, Any]) -> float:
    return 1e300 * number(completion)

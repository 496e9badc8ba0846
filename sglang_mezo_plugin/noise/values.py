"""The numbers that noise is asked for, and which of them are refused."""

import operator
from collections.abc import Sequence
from typing import Literal, get_args

import torch

Distribution = Literal["gaussian", "rademacher"]
"""How a direction's elements are distributed: standard normal by Box and Muller, |z| < 6.77; or +1 and -1."""

Moves = Sequence[tuple[int, float]]
"""The seed and the coefficient of each direction along which weights move, in the order of the sum."""


def check_distribution(distribution: str) -> None:
    """Raise ValueError for an unknown distribution."""
    if distribution not in get_args(Distribution):
        raise ValueError(f"distribution must be one of {get_args(Distribution)}, not {distribution!r}")


def check_seed(what: str, seed: int) -> None:
    """Raise ValueError unless `seed` is an integer in [0, 2**64)."""
    try:
        operator.index(seed)
    except TypeError:
        raise ValueError(f"{what} must be an integer, not {seed!r}") from None
    if not 0 <= seed < 2**64:
        raise ValueError(f"{what} must be in [0, 2**64), not {seed}")


def check_probe(seed: int, eps: float) -> None:
    """Raise ValueError unless a seed is one, and eps finite in fp32."""
    check_seed("seed", seed)
    _check_finite("eps", eps)


def check_moves(moves: Moves) -> None:
    """Raise ValueError unless seeds are such, and coefficients finite in fp32."""
    for seed, coefficient in moves:
        check_seed("a move's seed", seed)
        _check_finite("a move's coefficient", coefficient)


def check_decay(decay: float) -> None:
    """Raise ValueError unless a factor on weights is in [0, 1]."""
    if not 0 <= decay <= 1:
        raise ValueError(f"decay is a factor in [0, 1], not {decay}")


def _check_finite(what: str, value: float) -> None:
    if not abs(value) <= torch.finfo(torch.float32).max:
        raise ValueError(f"{what} must be finite in fp32, not {value}")

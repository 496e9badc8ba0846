"""Moments and independence, within five standard errors of their values for independent draws."""

import itertools

import numpy as np
import pytest
import torch
from one_tensor import direction_into

from sglang_mezo_plugin.noise import Distribution, Region, philox

COUNT = 1_000_000
FIVE_SIGMA = 5 / np.sqrt(COUNT)


def draw(seed: int, distribution: Distribution, name: str = "a") -> np.ndarray:
    out = torch.empty(COUNT)
    direction_into(out, seed, Region.whole(name, (COUNT,)), distribution)
    return out.numpy().astype(np.float64)


def test_moments_of_gaussian() -> None:
    """The mean of z**k has the variance (E z**2k - (E z**k)**2) / n, with E z**2k = (2k - 1)!!"""
    z = draw(1, "gaussian")
    for power, value, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - value) < FIVE_SIGMA * np.sqrt(variance), power
    assert 4.5 < np.abs(z).max() < 6.77


def test_quantiles_of_gaussian() -> None:
    """Kolmogorov's statistic: above 2.6 / sqrt(n) for one seed in 370,000."""
    z = np.sort(draw(2, "gaussian"))
    distribution = torch.special.ndtr(torch.from_numpy(z)).numpy()
    steps = np.arange(COUNT + 1) / COUNT
    distance = max(np.abs(distribution - steps[1:]).max(), np.abs(distribution - steps[:-1]).max())
    assert distance < 2.6 / np.sqrt(COUNT)


def test_lanes_of_gaussian_are_alike() -> None:
    z = draw(3, "gaussian").reshape(-1, 4)
    assert (np.abs(z.mean(axis=0)) < 2 * FIVE_SIGMA).all()
    assert (np.abs((z**2).mean(axis=0) - 1) < 2 * FIVE_SIGMA * np.sqrt(2)).all()


def test_balance_of_rademacher() -> None:
    z = draw(1, "rademacher")
    assert set(np.unique(z)) == {-1.0, 1.0}
    assert abs(z.mean()) < FIVE_SIGMA
    per_bit = z[: COUNT // 128 * 128].reshape(-1, 128).mean(axis=0)
    assert (np.abs(per_bit) < 5 / np.sqrt(COUNT // 128)).all()


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_independence(distribution: Distribution) -> None:
    """Seeds that differ in a low or a high bit, two parameters, neighbours up to a block apart."""
    z = draw(1, distribution)
    others = [draw(0, distribution), draw(1 + 2**32, distribution), draw(1, distribution, "b")]
    pairs = list(itertools.combinations([z, *others], 2))
    pairs += [(z[lag:], z[:-lag]) for lag in (1, 2, 3, 4, 32, 128)]
    for a, b in pairs:
        assert abs((a * b).mean()) < 1.01 * FIVE_SIGMA
        assert abs(((a**2 - 1) * (b**2 - 1)).mean()) < 1.01 * 2 * FIVE_SIGMA


def test_direction_and_rounding_differ() -> None:
    """The words of stream 1 are not those of stream 0 for one and the same seed."""
    streams = [philox.block_words(9, 9, np.arange(50_000), stream) for stream in (0, 1)]
    ones = np.unpackbits((streams[0] ^ streams[1]).view(np.uint8))
    assert abs(ones.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(ones))

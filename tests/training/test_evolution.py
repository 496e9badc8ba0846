"""Evolution strategies against numbers computed by hand, against SciPy, and against the gradient."""

import math

import numpy as np
import pytest
from quadratic import CURVATURE, Quadratic
from scipy.stats import rankdata, zscore

from sglang_mezo_plugin.runs.journal import StepRecord
from sglang_mezo_plugin.training import spsa
from sglang_mezo_plugin.training.evolution import (
    SHAPINGS,
    centered_ranks,
    population_metrics,
    projected_grads,
    z_scores,
)

REWARDS = np.array([0.1, 0.0, 1.1, 0.1, -3.0, 7.5, 0.06])


def test_z_scores_are_those_of_scipy() -> None:
    np.testing.assert_allclose(z_scores(REWARDS), zscore(REWARDS), rtol=1e-14)


def test_ranks_are_those_of_scipy_between_minus_and_plus_a_half() -> None:
    expected = (rankdata(REWARDS) - 1) / 6 - 0.5
    np.testing.assert_allclose(centered_ranks(REWARDS), expected, atol=1e-15)
    assert sorted(centered_ranks(np.array([5.0, -1e9]))) == [-0.5, 0.5]


@pytest.mark.parametrize("reward", [0.0, 0.1, -1 / 3, 1e30])
@pytest.mark.parametrize("shaping", ["z-score", "centered-rank"])
@pytest.mark.parametrize("members", [1, 3, 30])
def test_equal_rewards_say_nothing(reward: float, shaping: str, members: int) -> None:
    assert projected_grads([reward] * members, None, 0.5, shaping) == [0.0] * members
    assert projected_grads([reward] * members, [reward] * members, 0.5, shaping) == [0.0] * members


def test_raw_mirrored_rewards_are_spsa_of_their_losses() -> None:
    plus, minus = [0.5, -2.0, 1.0], [0.25, 3.0, 1.0]
    expected = [spsa.projected_grad(-r, -s, 0.125) for r, s in zip(plus, minus, strict=True)]
    assert projected_grads(plus, minus, 0.125, "raw") == expected
    assert projected_grads(plus, None, 0.125, "raw") == [-4.0, 16.0, -8.0]


def test_the_papers_update_by_hand() -> None:
    """Qiu et al., algorithm 1: theta + alpha / N * sum(Z_n eps_n). SGD moves by -alpha * mean(g z)."""
    rewards = [1.0, 2.0, 6.0]
    spread = math.sqrt((4 + 1 + 9) / 3)
    assert projected_grads(rewards, None, 0.001, "z-score") == pytest.approx(
        [2 / spread, 1 / spread, -3 / spread]
    )
    # Shaped as one population of four: ranks 3, 0 at +, and 1, 2 at -.
    assert projected_grads([9.0, 0.0], [1.0, 2.0], 0.001, "centered-rank") == pytest.approx([-1 / 3, 1 / 3])


@pytest.mark.parametrize("shaping", SHAPINGS)
@pytest.mark.parametrize("mirrored", [True, False])
def test_a_large_population_points_along_the_gradient(shaping: str, mirrored: bool) -> None:
    model, eps, target = Quadratic(), 1e-2, 1
    theta = model.flat()
    seeds = spsa.direction_seeds(3, 1, 4000)
    zs = [model.z(seed) for seed in seeds]

    def reward(sign: int) -> list[float]:
        return [-float((CURVATURE * (theta + sign * eps * z - target) ** 2).sum()) / 2 for z in zs]

    baseline = -float((CURVATURE * (theta - target) ** 2).sum()) / 2
    plus = [r - baseline for r in reward(1)]
    grads = projected_grads(plus, [r - baseline for r in reward(-1)] if mirrored else None, eps, shaping)
    estimate = sum(g * z for g, z in zip(grads, zs, strict=True)) / len(zs)
    gradient = CURVATURE * (theta - target)
    cosine = float(estimate @ gradient / estimate.norm() / gradient.norm())
    assert cosine > 0.99
    if shaping == "raw":
        assert float((estimate - gradient).norm() / gradient.norm()) < 0.1


def test_metrics_are_of_the_rewards_of_all_members() -> None:
    record = StepRecord(4, (1, 2), (-1.0, -2.0), (0.0, -5.0), (0.5, 0.25), 0.125, "batch")
    assert population_metrics(record, 1.5) == {
        "step": 4,
        "reward": 2.0,
        "best_reward": 5.0,
        "reward_std": math.sqrt((1 + 0 + 4 + 9) / 4),
        "members": 4,
        "learning_rate": 0.125,
        "seconds": 1.5,
    }
    one_sided = StepRecord(1, (1,), (-0.5,), (), (0.5,), 0.125, "batch")
    assert population_metrics(one_sided, None)["reward_std"] == 0.0

"""Evolution strategies: from the rewards of a population to projected gradients.

A member is theta + sigma z or, in a mirrored population, theta - sigma z. What an optimizer gets of direction
z is a projected gradient g, of a loss to be lowered, and it moves by -learning_rate * mean(g_i z_i):

    raw             g = -(R+ - R-) / (2 sigma), one-sided -R / sigma: an estimate of the gradient of -R
    z-score, ranks  g = -(S+ - S-) / 2, one-sided -S, with S the shaped rewards of the whole population: the
                    learning rate alone scales the move, whatever scale the rewards have

Sources: Salimans et al. 2017, arXiv:1703.03864, algorithm 1 (raw) and section 2.1 (centred ranks, mirrored
sampling); Qiu et al. 2025, arXiv:2509.24372, algorithm 1 (z-scores, one-sided; their alpha is the learning
rate, with 1 / sigma in it).
"""

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sglang_mezo_plugin.runs.journal import StepRecord

Shaping = Literal["z-score", "centered-rank", "raw"]
SHAPINGS = get_args(Shaping)


def z_scores(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return rewards with mean 0 and standard deviation 1 (over n, not n - 1); zeros if all are equal."""
    # Of equal rewards the mean may be off by a rounding, which the spread then is too.
    return np.zeros_like(rewards) if np.ptp(rewards) == 0 else (rewards - rewards.mean()) / rewards.std()


def centered_ranks(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks scaled to [-0.5, 0.5]; equal rewards share the mean of their ranks."""
    if len(rewards) == 1:
        return np.zeros(1)
    ordered = np.sort(rewards)
    below, up_to = (np.searchsorted(ordered, rewards, side) for side in ("left", "right"))
    return (below + up_to - 1) / 2 / (len(rewards) - 1) - 0.5


def projected_grads(
    plus: Sequence[float], minus: Sequence[float] | None, eps: float, shaping: Shaping
) -> list[float]:
    """Return g for each direction, from rewards at theta + eps z and, if mirrored, at theta - eps z.

    eps: sigma, above 0. Everything is fp64.
    """
    rewards = np.array([*plus, *(minus or ())], dtype=np.float64)
    if shaping == "raw":
        shaped = rewards / eps
    else:
        shaped = z_scores(rewards) if shaping == "z-score" else centered_ranks(rewards)
    grads = -shaped if minus is None else (shaped[len(plus) :] - shaped[: len(plus)]) / 2
    return grads.tolist()


def population_metrics(record: StepRecord, seconds: float | None) -> dict[str, Any]:
    """Return a generation's line of `metrics.jsonl`: mean, best and spread of its members' rewards.

    A journal holds losses: rewards with their sign turned. members: those that were evaluated.
    """
    rewards = [-loss for loss in (*record.loss_plus, *record.loss_minus)]
    return {
        "step": record.step,
        "reward": fmean(rewards),
        "best_reward": max(rewards),
        "reward_std": pstdev(rewards),
        "members": len(rewards),
        "learning_rate": record.learning_rate,
        "seconds": seconds,
    }

"""The estimator, on a quadratic: there a central difference is the derivative, whatever eps."""

import math
import re
from collections.abc import Callable
from itertools import chain

import pytest
from quadratic import CURVATURE, EXAMPLES, Quadratic

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Batch
from sglang_mezo_plugin.training.objectives import completion, loss
from sglang_mezo_plugin.training.spsa import clip, direction_seeds, projected_grad


def test_seeds_are_the_runs_seed_and_a_counter() -> None:
    assert direction_seeds(3, 1, 1) == (3 << 32,)
    seeds = [direction_seeds(3, step, 3) for step in (1, 2, 3)]
    assert list(chain(*seeds)) == [(3 << 32) + counter for counter in range(9)]
    assert direction_seeds(2**31 - 1, 2**32, 1) == (2**63 - 1,)
    assert direction_seeds(0, 2**31, 2)[1] == 2**32 - 1


@pytest.mark.parametrize("eps", [2.0**-10, 0.25, 4.0])
def test_a_projected_gradient_is_the_derivative_along_z(eps: float) -> None:
    """Exactly: with z = +-1 and dyadic numbers, fp64 rounds nothing."""
    model, batch = Quadratic("rademacher"), Batch.of([EXAMPLES[1], EXAMPLES[3]])
    (seed,) = direction_seeds(7, 5, 1)
    ((plus, minus),) = model.score_pairs(batch, [seed], eps)
    losses = [loss(completion, batch.examples, scores) for scores in (plus, minus)]
    gradient = CURVATURE * (model.flat() - (2 + 5) / 2)
    assert projected_grad(*losses, eps) == float(gradient @ model.z(seed)) != 0


def test_projected_grad_is_a_difference_of_fp64() -> None:
    """In fp32 both losses are 1: the difference would be lost."""
    assert projected_grad(1 + 2.0**-40, 1.0, 2.0**-10) == 2.0**-31


@pytest.mark.parametrize(
    ("grad", "bound", "clipped"),
    [(3.0, 2.0, 2.0), (-3.0, 2.0, -2.0), (1.5, 2.0, 1.5), (-2.0, 2.0, -2.0), (1e30, None, 1e30)],
)
def test_clip(grad: float, bound: float | None, clipped: float) -> None:
    assert clip(grad, bound) == clipped


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: direction_seeds(-1, 1, 1), "--seed must be in [0, 2**31), not -1"),
        (lambda: direction_seeds(2**31, 1, 1), "--seed must be in [0, 2**31), not 2147483648"),
        (lambda: direction_seeds(0, 2**31 + 1, 2), "--steps times --num-pairs must not exceed 2**32"),
        (lambda: projected_grad(1.0, 0.0, 0.0), "--eps must be above 0 and finite, not 0.0"),
        (lambda: projected_grad(1.0, 0.0, -1e-3), "--eps must be above 0 and finite, not -0.001"),
        (lambda: projected_grad(1.0, 0.0, math.inf), "--eps must be above 0 and finite, not inf"),
        (lambda: projected_grad(1.0, 0.0, math.nan), "--eps must be above 0 and finite, not nan"),
    ],
)
def test_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        call()

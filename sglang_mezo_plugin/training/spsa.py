"""The estimator: simultaneous perturbation stochastic approximation (SPSA), as MeZO uses it.

For a direction z, g = (L(theta + eps z) - L(theta - eps z)) / (2 eps) estimates the derivative of the loss
along z, and g z its gradient. With n pairs a step the estimate is the mean of g_i z_i: n-SPSA.

Sources: Spall 1992, IEEE Transactions on Automatic Control 37(3), equation 2.2; Malladi et al. 2023,
arXiv:2305.17333, definition 1 and algorithm 1.
"""

from sglang_mezo_plugin.bounds import POSITIVE, Bound
from sglang_mezo_plugin.errors import UserError

EPS = POSITIVE
SEED = Bound(at_least=0, below=2**31, words="in [0, 2**31)")


def direction_seeds(seed: int, step: int, num_pairs: int) -> tuple[int, ...]:
    """Return the seeds of the directions of step 1, 2, ...: num_pairs of them, from the run's seed.

    That of a pair is `seed << 32 | (step - 1) * num_pairs + pair`. So no two in a run are equal, nor any
    two of runs with different seeds; and Philox makes independent streams of different seeds.

    UserError unless 0 <= seed < 2**31 and step * num_pairs <= 2**32.
    """
    SEED.check("seed", seed)
    if step * num_pairs > 2**32:
        raise UserError(
            f"--steps times --num-pairs must not exceed 2**32, but {step} * {num_pairs} does: "
            "there would be no seeds left"
        )
    first = seed << 32 | (step - 1) * num_pairs
    return tuple(range(first, first + num_pairs))


def projected_grad(loss_plus: float, loss_minus: float, eps: float) -> float:
    """Return (L+ - L-) / (2 eps) in fp64. UserError unless eps is above 0 and finite."""
    EPS.check("eps", eps)
    return (loss_plus - loss_minus) / (2 * eps)


def clip(projected_grad: float, bound: float | None) -> float:
    """Return a projected gradient limited to [-bound, bound]; None: as it is."""
    return projected_grad if bound is None else max(-bound, min(projected_grad, bound))

"""Counter-based noise: directions that depend on (seed, parameter, element) of the checkpoint alone.

    region = Region.whole("model.decoder.layers.0.fc1.weight", weight.shape)   # once for each parameter
    direction = Direction(seed)                                                # once for each pair and step
    perturb_pair_into(plus, minus, weight, direction, region, eps)             # W + eps z and W - eps z
    gather_pair_into(plus, minus, weight, tokens, direction, region, eps)      # only their rows `tokens`
    accumulate_(weight, [(direction, -lr * g)], region, rounding_seed=seed)    # W += -lr g z
    PairPlan, UpdatePlan                                  # the same for all tensors of a layer, or of a model
    StepTable, PairPlan.write_from, gather_pair_from      # the same by numbers in memory, for CUDA graphs

Tensors are fp32, fp16 or bf16, 1-D or 2-D, of any strides, on a CPU or a CUDA device, and have just the shape
of their region, gathered rows apart: rows that only pad are left out by passing `weight[:rows]`. Arithmetic
is in fp32, each operation rounded once, and no backend uses a library's logarithm or sine, so the results
have the same bits on every device. Nothing is copied and autograd records nothing. `philox.py` defines the
numbers.

Every function raises ValueError for what does not fit: seeds outside [0, 2**64), coefficients that are not
finite in fp32, other dtypes, tensors on different devices, or a region of another shape than the tensor.
"""

from collections.abc import Sequence
from types import ModuleType

import torch

from sglang_mezo_plugin.noise.checks import (
    check_apart,
    check_decay,
    check_finite,
    check_gather,
    check_moves,
    check_rounding,
    check_same_device,
    plan,
)
from sglang_mezo_plugin.noise.plans import PairPlan, UpdatePlan
from sglang_mezo_plugin.noise.region import Direction, Distribution, Region, check_parameter_ids, parameter_id
from sglang_mezo_plugin.noise.step_table import StepTable

__all__ = [
    "Direction",
    "Distribution",
    "PairPlan",
    "Region",
    "StepTable",
    "UpdatePlan",
    "accumulate_",
    "check_parameter_ids",
    "direction_into",
    "gather_pair_from",
    "gather_pair_into",
    "parameter_id",
    "perturb_into",
    "perturb_pair_into",
]


def direction_into(out: torch.Tensor, direction: Direction, region: Region) -> None:
    """Set out to z, the direction on `region`, rounded to nearest.

    Gaussian: standard normal by Philox4x32-10 and the method of Box and Muller, |z| < 6.77. Rademacher:
    +1 or -1. out: [rows, cols] or [cols].
    """
    (out_2d,), region = plan(region, out=out)
    if out.numel():
        _backend(out).direction_into(out_2d, direction, region)


def perturb_into(
    out: torch.Tensor, weight: torch.Tensor, direction: Direction, region: Region, coefficient: float
) -> None:
    """Set out to weight + coefficient * z, a fused multiply-add in fp32, rounded to nearest into out's dtype.

    weight: [rows, cols] or [cols], unchanged. out: that shape, may have another dtype, must not overlap
    weight. coefficient: finite; it has the weights' unit, since z has none.
    """
    (out_2d, weight_2d), region = plan(region, out=out, weight=weight)
    check_apart(out=out, weight=weight)
    check_finite("coefficient", coefficient)
    if out.numel():
        _backend(out).perturb_into(out_2d, weight_2d, direction, region, coefficient)


def perturb_pair_into(
    out_plus: torch.Tensor,
    out_minus: torch.Tensor,
    weight: torch.Tensor,
    direction: Direction,
    region: Region,
    eps: float,
) -> None:
    """Set out_plus to weight + eps * z and out_minus to weight - eps * z, with z evaluated once.

    The same bits as `perturb_into` with eps and with -eps, and the same conditions; the three tensors must
    not overlap.
    """
    planes, region = plan(region, out_plus=out_plus, out_minus=out_minus, weight=weight)
    check_apart(out_plus=out_plus, out_minus=out_minus, weight=weight)
    check_finite("eps", eps)
    if weight.numel():
        plus, minus, weight_2d = planes
        _backend(weight).perturb_into(plus, weight_2d, direction, region, eps, minus)


def gather_pair_into(
    out_plus: torch.Tensor,
    out_minus: torch.Tensor,
    weight: torch.Tensor,
    rows: torch.Tensor,
    direction: Direction,
    region: Region,
    eps: float,
) -> None:
    """Set out_plus to (weight + eps * z)[rows] and out_minus to (weight - eps * z)[rows]: an embedding.

    The same bits as `perturb_pair_into` on the whole table, indexed afterwards; but only the rows named are
    read, and z is evaluated there alone, once for both. On a GPU that is one launch, without a wait.

    weight: [R, C], unchanged. rows: int32 or int64 [n], of any stride, on weight's device, each in [0, R),
    repeated or not. ValueError if one is outside, for CPU tensors; on a GPU the caller answers for that,
    since to look would be to wait. out_plus, out_minus: [n, C], may have other dtypes; the three tensors
    must not overlap. eps: finite.
    """
    check_gather(rows, weight, region, out_plus=out_plus, out_minus=out_minus)
    check_apart(out_plus=out_plus, out_minus=out_minus, weight=weight)
    check_finite("eps", eps)
    if out_plus.numel():
        _backend(weight).perturb_into(out_plus, weight, direction, region, eps, out_minus, rows)


def gather_pair_from(
    table: StepTable,
    out_plus: torch.Tensor,
    out_minus: torch.Tensor,
    weight: torch.Tensor,
    rows: torch.Tensor,
    region: Region,
) -> None:
    """Do as `gather_pair_into`, with the direction and eps that a table holds when the launch runs.

    The same bits and the same conditions, the table's device among them.
    """
    check_gather(rows, weight, region, out_plus=out_plus, out_minus=out_minus)
    check_apart(out_plus=out_plus, out_minus=out_minus, weight=weight)
    check_same_device(table=table.words, weight=weight)
    if out_plus.numel():
        _backend(weight).gather_from(table, out_plus, out_minus, weight, rows, region)


def accumulate_(
    weight: torch.Tensor,
    moves: Sequence[tuple[Direction, float]],
    region: Region,
    rounding_seed: int | None = None,
    decay: float = 1.0,
) -> None:
    """Set weight to decay * weight + sum(c * z for (direction, c) in moves), in one pass, in place.

    weight: [rows, cols] or [cols]. decay * weight is formed in fp32, then each move is added in turn, by a
    fused multiply-add. All directions must have the same distribution; moves may be empty.

    An fp32 weight takes the result as it is. An fp16 or bf16 weight takes one of its two neighbours, at
    random so that the expectation is the result: an update below half a unit in the last place, which
    rounding to nearest would lose, counts on average. The random words are those of `rounding_seed`
    (0 <= rounding_seed < 2**64), in a stream of their own: the seed of a direction will do. Give each step
    another one. A finite result beyond the dtype's largest value becomes that value; infinities and NaN stay.

    decay: factor on the weight, in [0, 1]; for weight decay, 1 - lr * lambda.
    """
    (weight_2d,), region = plan(region, weight=weight)
    check_moves(moves)
    check_rounding(weight, rounding_seed)
    check_decay(decay)
    if weight.numel():
        _backend(weight).accumulate_(weight_2d, moves, region, rounding_seed or 0, decay)


def _backend(tensor: torch.Tensor) -> ModuleType:
    """Return the module for a tensor's device, imported when needed: numba and Triton load slowly."""
    if tensor.is_cuda:
        from sglang_mezo_plugin.noise.cuda import kernels as backend
    else:
        from sglang_mezo_plugin.noise.cpu import kernels as backend
    return backend

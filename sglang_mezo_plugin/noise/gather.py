"""Perturbed rows of an embedding: those that are looked up, and no others."""

import torch

from sglang_mezo_plugin.noise import backends
from sglang_mezo_plugin.noise.checks import check_apart, check_gather, check_same_device
from sglang_mezo_plugin.noise.region import Region
from sglang_mezo_plugin.noise.step_numbers import StepNumbers
from sglang_mezo_plugin.noise.values import Distribution, check_distribution


def gather_pair_into(
    out_plus: torch.Tensor,
    out_minus: torch.Tensor,
    weight: torch.Tensor,
    rows: torch.Tensor,
    region: Region,
    distribution: Distribution,
    numbers: StepNumbers,
) -> None:
    """Set out_plus to (weight + eps * z)[rows] and out_minus to (weight - eps * z)[rows].

    The same bits as `PairPlan.write` for the whole embedding, indexed afterwards; but only the rows named are
    read, and z is evaluated there alone, once for both. On a GPU that is one launch, without a wait.

    weight: [R, C], unchanged. rows: int32 or int64 [n], of any stride, on weight's device, each in [0, R),
    repeated or not. ValueError if one is outside, for CPU tensors; on a GPU the caller answers for that,
    since to look would be to wait. out_plus, out_minus: [n, C], may have other dtypes; the three tensors
    must not overlap. numbers: the seed of z, and eps, on weight's device.
    """
    check_distribution(distribution)
    check_gather(rows, weight, region, out_plus=out_plus, out_minus=out_minus)
    check_apart(out_plus=out_plus, out_minus=out_minus, weight=weight)
    check_same_device(numbers=numbers.words, weight=weight)
    if out_plus.numel():
        gather_pair = backends.backend_of(weight).gather_pair
        gather_pair(out_plus, out_minus, weight, rows, region, distribution, numbers)

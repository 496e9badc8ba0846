"""Weights of several modules in one pass, whatever their dtypes: the bits of one call a tensor."""

import pytest
import torch
from one_tensor import accumulate_, perturb_pair_into

from sglang_mezo_plugin.engine.dense.placement import Piece
from sglang_mezo_plugin.engine.dense.probes import Probe
from sglang_mezo_plugin.engine.dense.weights import Perturbed, Update, bytes_of
from sglang_mezo_plugin.noise import Distribution, Region, StepNumbers

EPS = 1e-2


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_dtypes_may_differ(distribution: Distribution) -> None:
    """As where a model keeps its norms, or a gate, in fp32."""
    dtypes = (torch.bfloat16, torch.float32, torch.bfloat16)
    weights = [torch.randn(6, 40, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    parameters = [torch.nn.Parameter(w.to(d), False) for w, d in zip(weights, dtypes, strict=True)]
    regions = [Region.whole(f"layers.{i}.weight", (6, 40)) for i in range(3)]
    pieces = {
        p: (Piece("weight", region, (6, 40), (40, 1), 0, decays=i != 1),)
        for i, (p, region) in enumerate(zip(parameters, regions, strict=True))
    }
    expected = [parameter.data.clone() for parameter in parameters]
    size = bytes_of(parameters)
    buffers = tuple(torch.empty(size, dtype=torch.uint8) for _ in range(2))
    perturbed = Perturbed(parameters, pieces, buffers, distribution)
    moves, seed, numbers = [(5, 0.1)], 6, StepNumbers("cpu")
    for step in range(3):
        perturbed.wait(Update(moves, 0.9, step, StepNumbers.moving("cpu", moves, step, 0.9)))
        numbers.set(seed, EPS, moves, step, 0.9)
        Probe(numbers).write(perturbed)
        for i, (weight, region) in enumerate(zip(expected, regions, strict=True)):
            accumulate_(weight, moves, region, step, 0.9 if i != 1 else 1.0, distribution)
            plus, minus = torch.empty_like(weight), torch.empty_like(weight)
            perturb_pair_into(plus, minus, weight, seed, region, EPS, distribution)
            assert torch.equal(parameters[i].data, weight)
            assert torch.equal(perturbed.plus[i], plus) and torch.equal(perturbed.minus[i], minus)

"""The same steps of full training made twice, by graphs and launched by the host."""

from collections.abc import Callable
from pathlib import Path

import tiny_models
import torch

from sglang_mezo_plugin.engine.dense.carrier import DenseCarrier
from sglang_mezo_plugin.engine.graphs import Capture
from sglang_mezo_plugin.models.checkpoint import read_tensors
from sglang_mezo_plugin.noise import Distribution, Moves
from sglang_mezo_plugin.training.objectives import Scores

CUDA = torch.cuda.is_available()
ENGINE_ARGS = {"attention_backend": "triton"} if CUDA else {}
EPS, MOVE, DECAY = 1e-2, 3e-3, 0.99
# Triton rounds fp32 operands to TF32; the other dtypes are themselves that coarse.
ATOL = {"float32": 2e-2 if CUDA else 2e-5, "float16": 0.05, "bfloat16": 0.3}
Steps = Callable[[DenseCarrier, Path], list[Scores]]


def seeds_of(step: int, pairs: int) -> list[int]:
    return [2**63 + 10 * step + pair for pair in range(pairs)]


def moves(step: int, pairs: int) -> Moves:
    return [(seed, MOVE * (1 + i)) for i, seed in enumerate(seeds_of(step, pairs))]


def run(
    path: str, folder: Path, dtype: str, capture: Capture | None, steps: Steps, distribution: Distribution
) -> tuple[DenseCarrier, list[Scores], list[dict[str, torch.Tensor]]]:
    folder.mkdir()
    with tiny_models.opened(path, dtype, ENGINE_ARGS) as runner:
        carrier = DenseCarrier(runner, Path(path), distribution, capture)
        scores = steps(carrier, folder)
        carrier.save(folder / "end")
    return carrier, scores, [dict(read_tensors(saved)) for saved in sorted(folder.iterdir())]


def compare(
    name: str,
    folder: Path,
    dtype: str,
    capture: Capture,
    steps: Steps,
    distribution: Distribution = "gaussian",
) -> tuple[DenseCarrier, DenseCarrier]:
    """Make the same steps by graphs and without. Return both carriers, those with graphs first."""
    path = tiny_models.saved(name, folder)
    by_graphs, ours, found = run(path, folder / "graphs", dtype, capture, steps, distribution)
    launched, theirs, wanted = run(path, folder / "launched", dtype, None, steps, distribution)
    for one, other in zip(ours, theirs, strict=True):
        assert tiny_models.largest_difference(one, other) < ATOL[dtype]
    base = {name: tensor.to(getattr(torch, dtype)) for name, tensor in read_tensors(Path(path))}
    for saved, expected in zip(found, wanted, strict=True):
        assert saved.keys() == expected.keys() == base.keys()
        for key, tensor in expected.items():
            assert torch.equal(saved[key], tensor), key
            assert not torch.equal(tensor, base[key]), key
    return by_graphs, launched

"""Full-parameter training: weights differ from the base by the updates, and by nothing else, to the bit."""

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from one_tensor import accumulate_

from sglang_mezo_plugin.engine.dense.carrier import DenseCarrier
from sglang_mezo_plugin.models.checkpoint import read_tensors
from sglang_mezo_plugin.noise import Region

STEPS, EPS, MOVE, DECAY = 200, 1e-3, 1e-4, 0.999
# Each dtype with one model, each model with one dtype, and then the others.
CASES = [
    *(("opt", "float32"), ("opt", "float16"), ("opt", "bfloat16"), ("opt-post-norm", "float32")),
    *(("llama", "bfloat16"), ("qwen2", "float32"), ("gpt2", "float16")),
]
CROSSINGS = [("llama", "float32"), ("llama", "float16"), ("gpt2", "float32"), ("gpt2", "bfloat16")]
DISTRIBUTIONS = dict(zip([*CASES, *CROSSINGS], cycle(("gaussian", "rademacher")), strict=False))


@pytest.mark.parametrize(
    ("name", "dtype"), [*CASES, *(pytest.param(*case, marks=pytest.mark.long) for case in CROSSINGS)]
)
def test_weights_move_by_the_updates_alone(
    name: str, dtype: str, tmp_path: Path, engine_args: dict[str, Any]
) -> None:
    """Probe and update, 200 times; then compare with the updates made on the checkpoint itself."""
    distribution = DISTRIBUTIONS[name, dtype]
    path, batch = tiny_models.saved(name, tmp_path), tiny_models.make_batch(2)
    stored = {name: tensor.to(getattr(torch, dtype)) for name, tensor in read_tensors(Path(path))}
    expected = {name: tensor.clone() for name, tensor in stored.items()}
    with tiny_models.opened(path, dtype, engine_args) as runner:
        carrier = DenseCarrier(runner, Path(path), distribution)
        for step in range(STEPS):
            moves = [(1000 + step, MOVE)]
            carrier.score_pairs(batch, [moves[0][0]], EPS)
            carrier.step(moves, decay=DECAY, rounding_seed=step)
            for name, tensor in expected.items():
                decay = DECAY if tensor.dim() > 1 else 1.0
                region = Region.whole(name, tensor.shape)
                accumulate_(tensor, moves, region, step, decay, distribution)
        carrier.save(tmp_path / "saved")
    found = dict(read_tensors(tmp_path / "saved"))
    assert found.keys() == expected.keys() == set(carrier.names)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
        assert not torch.equal(tensor, stored[name]), name

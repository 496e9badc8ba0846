"""Where the parameters of a checkpoint lie in the engine."""

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch

from sglang_mezo_plugin.engine.dense.placement import assemble, locate
from sglang_mezo_plugin.models.checkpoint import read_tensors, tensor_shapes


@pytest.mark.parametrize("name", tiny_models.ARCHITECTURES)
def test_pieces_put_the_checkpoint_together_again(
    name: str, tmp_path: Path, engine_args: dict[str, Any]
) -> None:
    path = tiny_models.saved(name, tmp_path)
    shapes = tensor_shapes(Path(path))
    stored = dict(read_tensors(Path(path)))
    with tiny_models.opened(path, "float32", engine_args) as runner:
        before = {name: parameter.clone() for name, parameter in runner.model.named_parameters()}
        # A tied head that is stored too must not be trained twice.
        twice = {**shapes, "lm_head.weight": next(s for n, s in shapes.items() if "embed" in n or "wte" in n)}
        for found in (locate(runner.model, shapes), locate(runner.model, twice)):
            held = sum(piece.region.rows * piece.region.cols for parts in found.values() for piece in parts)
            assert held == sum(shape.numel() for shape in shapes.values())
            tensors = dict(assemble(found, shapes))
            assert tensors.keys() == stored.keys()
            assert all(torch.equal(tensors[name], stored[name]) for name in stored)
        # To ask where weights lie has not changed one.
        assert all(torch.equal(before[name], p) for name, p in runner.model.named_parameters())

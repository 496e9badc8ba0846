"""Full-parameter training: pairs of losses, updates and checkpoints, next to transformers."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_models
import torch
from sglang.srt.model_executor.model_runner import ModelRunner
from transformers import PreTrainedModel

from sglang_mezo_plugin import losses
from sglang_mezo_plugin.checkpoint_files import read_tensors
from sglang_mezo_plugin.engine.dense import DenseCarrier
from sglang_mezo_plugin.engine.runner import open_runner
from sglang_mezo_plugin.noise import Direction, Region, accumulate_
from sglang_mezo_plugin.spsa import projected_grad

EPS = 1e-3


class Model(NamedTuple):
    path: str
    carrier: DenseCarrier
    reference: PreTrainedModel


def open_tiny(path: str, dtype: str, engine_args: dict[str, Any]) -> AbstractContextManager[ModelRunner]:
    return open_runner(
        path,
        dtype=dtype,
        skip_tokenizer_init=True,
        mem_fraction_static=0.3,
        max_total_tokens=4096,
        **engine_args,
    )


@pytest.fixture(scope="module", params=list(tiny_models.CONFIGS))
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, engine_args: dict[str, Any]
) -> Iterator[Model]:
    path = tiny_models.saved(request.param, tmp_path_factory.mktemp("models"))
    with open_tiny(path, "float32", engine_args) as runner:
        yield Model(path, DenseCarrier(runner, Path(path)), tiny_models.load_reference(path))


@pytest.mark.parametrize("size", range(1, 10))
def test_a_pair_scores_as_with_weights_really_moved(model: Model, size: int) -> None:
    batch, directions = tiny_models.make_batch(size, seed=size), [Direction(size), Direction(9, "rademacher")]
    pairs = model.carrier.score_pairs(batch, directions, EPS)
    for direction, pair in zip(directions, pairs, strict=True):
        for coefficient, ours in zip((EPS, -EPS), pair, strict=True):
            with tiny_models.moved(model.reference, model.path, direction, coefficient):
                theirs = tiny_models.reference_scores(model.reference, batch.examples)
            assert tiny_models.largest_difference(ours, theirs) < 2e-5
            for objective in ("completion", "classification"):
                function = losses.OBJECTIVES[objective]
                expected = losses.loss(function, batch.examples, theirs)
                assert losses.loss(function, batch.examples, ours) == pytest.approx(expected, abs=2e-5)
    ours = model.carrier.score(batch)
    theirs = tiny_models.reference_scores(model.reference, batch.examples)
    assert tiny_models.largest_difference(ours, theirs) < 2e-5


@pytest.mark.parametrize("objective", ["completion", "classification"])
def test_projected_grad_is_the_directional_derivative(model: Model, objective: str) -> None:
    batch, function = tiny_models.make_batch(4, seed=7), losses.OBJECTIVES[objective]
    gradient = tiny_models.gradient(model.path, batch, objective)
    for seed in range(20):
        direction = Direction(seed)
        ((plus, minus),) = model.carrier.score_pairs(batch, [direction], EPS)
        ours = projected_grad(*(losses.loss(function, batch.examples, side) for side in (plus, minus)), EPS)
        expected, scale = tiny_models.directional_derivative(gradient, direction)
        assert ours == pytest.approx(expected, abs=0.01 * scale)


def test_weights_move_by_the_updates_alone(model: Model, tmp_path: Path) -> None:
    check_steps(model.carrier, model.path, tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["opt", "llama", "gpt2"])
def test_weights_of_16_bits_move_by_the_updates_alone(
    name: str, dtype: str, tmp_path: Path, engine_args: dict[str, Any]
) -> None:
    path = tiny_models.saved(name, tmp_path)
    with open_tiny(path, dtype, engine_args) as runner:
        check_steps(DenseCarrier(runner, Path(path)), path, tmp_path, getattr(torch, dtype))


def check_steps(
    carrier: DenseCarrier, path: str, folder: Path, dtype: torch.dtype = torch.float32, steps: int = 200
) -> None:
    """Take steps with probes in between; each weight must have the bits of the updates made without them."""
    batch = tiny_models.make_batch(2)
    carrier.save(folder / "before")
    expected = dict(read_tensors(folder / "before"))
    for step in range(steps):
        direction = Direction(1000 + step, ("gaussian", "rademacher")[step % 2])
        carrier.score_pairs(batch, [direction], EPS)
        carrier.step([(direction, 1e-4)], decay=0.999, rounding_seed=step)
        for name, tensor in expected.items():
            decay = 0.999 if tensor.dim() > 1 else 1.0
            accumulate_(tensor, [(direction, 1e-4)], Region.whole(name, tensor.shape), step, decay)
    carrier.save(folder / "after")
    found = dict(read_tensors(folder / "after"))
    assert found.keys() == expected.keys() == set(carrier.names)
    for name, tensor in expected.items():
        assert tensor.dtype == dtype
        assert torch.equal(found[name], tensor), name
    stored = dict(read_tensors(Path(path)))
    assert all(not torch.equal(found[name], stored[name].to(dtype)) for name in found)

"""Full-parameter training: pairs of losses, and the gradient along a direction, next to transformers."""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_models
from sglang.test.tiny_model_utils import load_reference
from transformers import PreTrainedModel

from sglang_mezo_plugin.engine.dense.carrier import DenseCarrier
from sglang_mezo_plugin.training.objectives import OBJECTIVES, loss
from sglang_mezo_plugin.training.spsa import projected_grad

EPS = 1e-3
DISTRIBUTIONS = dict(zip(tiny_models.CONFIGS, cycle(("gaussian", "rademacher")), strict=False))


class Model(NamedTuple):
    path: str
    carrier: DenseCarrier
    reference: PreTrainedModel


@pytest.fixture(scope="module", params=tiny_models.ARCHITECTURES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, engine_args: dict[str, Any]
) -> Iterator[Model]:
    path = tiny_models.saved(request.param, tmp_path_factory.mktemp("models"))
    distribution = DISTRIBUTIONS[request.param]
    with tiny_models.opened(path, "float32", engine_args) as runner:
        yield Model(path, DenseCarrier(runner, Path(path), distribution), load_reference(path))


@pytest.mark.parametrize("size", range(1, 10))
def test_a_pair_scores_as_with_weights_really_moved(model: Model, size: int, atol: float) -> None:
    batch, seeds = tiny_models.make_batch(size, seed=size), [size, 9 + size]
    distribution = model.carrier.distribution
    pairs = model.carrier.score_pairs(batch, seeds, EPS)
    for seed, pair in zip(seeds, pairs, strict=True):
        for coefficient, ours in zip((EPS, -EPS), pair, strict=True):
            with tiny_models.moved(model.reference, model.path, seed, coefficient, distribution):
                theirs = tiny_models.reference_scores(model.reference, batch.examples)
            assert tiny_models.largest_difference(ours, theirs) < 2 * atol
            for objective in ("completion", "classification"):
                function = OBJECTIVES[objective]
                expected = loss(function, batch.examples, theirs)
                assert loss(function, batch.examples, ours) == pytest.approx(expected, abs=2 * atol)
    ours = model.carrier.score(batch)
    theirs = tiny_models.reference_scores(model.reference, batch.examples)
    assert tiny_models.largest_difference(ours, theirs) < 2 * atol


@pytest.mark.parametrize("model", tiny_models.SMOOTH, indirect=True)
@pytest.mark.parametrize("objective", ["completion", "classification"])
def test_projected_grad_is_the_directional_derivative(model: Model, objective: str) -> None:
    batch, function = tiny_models.make_batch(4, seed=7), OBJECTIVES[objective]
    gradient = tiny_models.gradient(model.path, batch, objective)
    for seed in range(20):
        ((plus, minus),) = model.carrier.score_pairs(batch, [seed], EPS)
        ours = projected_grad(*(loss(function, batch.examples, side) for side in (plus, minus)), EPS)
        expected, scale = tiny_models.directional_derivative(gradient, seed, model.carrier.distribution)
        assert ours == pytest.approx(expected, abs=0.01 * scale)

"""Adapter training: pairs of losses and saved adapters, next to PEFT."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_models
import torch
from one_tensor import perturb_into
from peft import PeftModel, set_peft_model_state_dict
from sglang.test.tiny_model_utils import load_reference

from sglang_mezo_plugin.engine.lora.carrier import LoraCarrier, adapter_server_args
from sglang_mezo_plugin.engine.runner import open_runner
from sglang_mezo_plugin.models.adapter import Adapter

EPS = 1e-2
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "opt": ("opt", {"target_modules": ["q_proj", "v_proj"]}),
    "opt-all-linear": ("opt", {"target_modules": "all-linear", "rank": 2}),
    "llama": ("llama", {"target_modules": "all-linear"}),
    "llama-one-layer": ("llama", {"target_modules": ["up_proj", "k_proj"], "layers_to_transform": [1]}),
    "qwen2": ("qwen2", {}),
    "gpt2": ("gpt2", {"target_modules": "all-linear"}),
}
DISTRIBUTIONS = dict(zip(CASES, cycle(("gaussian", "rademacher")), strict=False))


class Model(NamedTuple):
    path: str
    carrier: LoraCarrier
    adapter: Adapter
    reference: PeftModel


@pytest.fixture(scope="module", params=list(CASES))
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, engine_args: dict[str, Any]
) -> Iterator[Model]:
    name, options = CASES[request.param]
    path = tiny_models.saved(name, tmp_path_factory.mktemp("models"))
    adapter = Adapter.fresh(Path(path), seed=3, **options, distribution=DISTRIBUTIONS[request.param])
    for name, tensor in adapter.tensors.items():
        if ".lora_B." in name:  # zero, so that A would have no effect
            tensor.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    folder = tmp_path_factory.mktemp("adapter") / "saved"
    adapter.save(folder)
    reference = PeftModel.from_pretrained(load_reference(path), folder)
    with open_runner(
        path,
        dtype="float32",
        skip_tokenizer_init=True,
        mem_fraction_static=0.3,
        max_total_tokens=8192,
        **adapter_server_args(adapter, pairs=2),
        **engine_args,
    ) as runner:
        yield Model(path, LoraCarrier(runner, adapter), adapter, reference)


@contextmanager
def moved(model: Model, seed: int, coefficient: float) -> Iterator[None]:
    """Give PEFT the adapter that is really moved by coefficient * z."""
    values = {}
    for name, (tensor, region) in model.adapter.parameters().items():
        values[name] = torch.empty_like(tensor)
        perturb_into(values[name], tensor, seed, region, coefficient, model.carrier.distribution)
    result = set_peft_model_state_dict(model.reference, values)
    assert not result.unexpected_keys
    yield
    set_peft_model_state_dict(model.reference, model.adapter.tensors)


@pytest.mark.parametrize("size", range(1, 10))
def test_pairs_score_as_with_the_adapter_really_moved(model: Model, size: int, atol: float) -> None:
    batch = tiny_models.make_batch(size, seed=size)
    seeds = [size, 50, 51]
    pairs = model.carrier.score_pairs(batch, seeds, EPS)  # two forwards: there are slots for two pairs
    for seed, pair in zip(seeds, pairs, strict=True):
        for coefficient, ours in zip((EPS, -EPS), pair, strict=True):
            with moved(model, seed, coefficient):
                theirs = tiny_models.reference_scores(model.reference, batch.examples)
            assert tiny_models.largest_difference(ours, theirs) < 2 * atol
    theirs = tiny_models.reference_scores(model.reference, batch.examples)
    assert tiny_models.largest_difference(model.carrier.score(batch), theirs) < 2 * atol

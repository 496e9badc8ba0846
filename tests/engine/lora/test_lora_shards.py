"""An adapter on two tensor-parallel ranks scores as on one, before and after a step."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from sglang.test.tiny_model_utils import run_on_ranks, save_tiny_model

from sglang_mezo_plugin.engine.lora.carrier import LoraCarrier, adapter_server_args
from sglang_mezo_plugin.engine.runner import open_runner
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.training.objectives import Scores

EPS = 1e-2
CASES: dict[str, dict[str, Any]] = {
    "opt": {"target_modules": "all-linear", "rank": 3},
    "llama": {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"]},
    # q, k and v are one module of the checkpoint, of which a rank has three pieces.
    "gpt2": {"target_modules": "all-linear"},
}


def all_scores(
    rank: int, _: int, ports: Sequence[int], folder: str, engine_args: dict[str, Any]
) -> dict[str, list[Scores]]:
    """Return the scores of each case, on two ranks that meet at a port of its own."""
    torch.set_num_threads(1)
    return {
        name: scores(f"{folder}/{name}", name, engine_args, tp_rank=rank, tp_size=2, dist_port=port)
        for name, port in zip(CASES, ports, strict=True)
    }


def scores(path: str, name: str, engine_args: dict[str, Any], **place: int) -> list[Scores]:
    """Return what a case scores at both signs, at one of them alone, and at theta after a step."""
    adapter = Adapter.fresh(Path(path), seed=3, **CASES[name])
    for key, tensor in adapter.tensors.items():
        if ".lora_B." in key:  # zero, so that A would have no effect
            tensor.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    with open_runner(
        path,
        gpu_id=place.get("tp_rank", 0),
        dtype="float32",
        skip_tokenizer_init=True,
        mem_fraction_static=0.3,
        max_total_tokens=4096,
        **adapter_server_args(adapter, pairs=1),
        **engine_args,
        **place,
    ) as runner:
        carrier = LoraCarrier(runner, adapter)
        batch, seed = tiny_models.make_batch(4), 7
        plus, minus = carrier.score_pairs(batch, [seed], EPS)[0]
        alone = carrier.score_at(batch, seed, -EPS)
        carrier.step([(seed, 0.1)], decay=0.9, rounding_seed=1)
        return [plus, minus, alone, carrier.score(batch)]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@pytest.mark.usefixtures("forked_ranks")
def test_two_ranks_score_as_one(tmp_path: Path, engine_args: dict[str, Any], atol: float) -> None:
    if torch.cuda.device_count() == 1:
        pytest.skip("needs two GPUs, or none")
    for name in CASES:
        save_tiny_model(tiny_models.CONFIGS[name], str(tmp_path / name))
    one = {name: scores(str(tmp_path / name), name, engine_args) for name in CASES}
    for two in run_on_ranks(all_scores, 2, free_ports(len(CASES)), str(tmp_path), engine_args):
        for name, wanted in one.items():
            for ours, theirs in zip(two[name], wanted, strict=True):
                assert tiny_models.largest_difference(ours, theirs) < 2 * atol, name
    for plus, minus, alone, moved in one.values():
        assert tiny_models.largest_difference(alone, minus) < 2 * atol
        assert min(tiny_models.largest_difference(minus, other) for other in (plus, moved)) > 100 * atol

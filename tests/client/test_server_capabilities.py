"""A server that cannot evaluate a run's adapters is told from one that can, at the start, with its flags."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from fake_server import FakeServer
from server_cases import config, tensors

from sglang_mezo_plugin.client import Server
from sglang_mezo_plugin.errors import UserError

TARGETS = "--lora-target-modules q_proj v_proj"
FLAGS = f"start {{}} with --enable-lora --max-lora-rank {{}} {TARGETS} --max-loras-per-batch 6"
POOL = "is incompatible with the current LoRA memory pool configuration."


@pytest.mark.parametrize(
    ("info", "rank", "message"),
    [
        ({"enable_lora": None}, 2, "was started without LoRA: " + FLAGS.format("it", 2)),
        ({}, 16, "takes adapters up to rank 8, not 16: " + FLAGS.format("it", 16)),
        ({"max_lora_rank": None}, 16, f"with rank 16 {POOL}"),
        ({"max_lora_rank": None}, 16, FLAGS.format("the server", 16)),
        ({"lora_target_modules": ["q_proj"]}, 2, f"with rank 2 {POOL}"),
        ({"lora_target_modules": ["q_proj"]}, 2, FLAGS.format("the server", 2)),
        (
            {"dp_size": 2},
            2,
            "has --dp-size 2, and SGLang loads no adapters into replicas: start it with --dp-size 1",
        ),
    ],
)
def test_flags_that_are_lacking(
    fake: FakeServer, connect: Callable[..., Server], info: dict[str, Any], rank: int, message: str
) -> None:
    fake.info |= info
    with connect() as server, pytest.raises(UserError, match=re.escape(message)) as raised:
        server.check_lora(tensors(1), config(rank), slots=6)
    assert "\n" not in str(raised.value) and str(raised.value).startswith(fake.url)
    assert fake.adapters == {}


def test_a_server_that_will_do(fake: FakeServer, connect: Callable[..., Server]) -> None:
    with connect() as server:
        server.check_lora(tensors(1), config(8))
        assert server.adapters() == []


@pytest.mark.parametrize(
    ("per_batch", "loaded", "others", "free"),
    [(4, None, 3, 4), (4, 6, 0, 4), (4, 6, 3, 3), (4, 6, 5, 1), (4, 6, 6, None), (4, 6, 7, None)],
)
def test_slots(
    fake: FakeServer,
    connect: Callable[..., Server],
    per_batch: int,
    loaded: int | None,
    others: int,
    free: int | None,
) -> None:
    """Beyond --max-loaded-loras, SGLang would unload what others have loaded."""
    fake.info |= {"max_loras_per_batch": per_batch, "max_loaded_loras": loaded}
    fake.others = [f"other-{n}" for n in range(others)]
    with connect() as server:
        if free is None:
            with pytest.raises(
                UserError, match=f"has {others} adapters loaded, and --max-loaded-loras 6: unload"
            ):
                server.free_slots()
        else:
            assert server.free_slots() == free


def test_seeds(fake: FakeServer, connect: Callable[..., Server]) -> None:
    with (
        connect() as server,
        pytest.raises(UserError, match="start it with --enable-deterministic-inference, or"),
    ):
        server.capabilities.check_seeds()
    fake.info["enable_deterministic_inference"] = True
    with connect() as server:
        server.capabilities.check_seeds()


def test_older_servers(fake: FakeServer, connect: Callable[..., Server]) -> None:
    fake.missing_paths = {"/server_info"}
    with connect() as server:
        assert server.capabilities.max_loras_per_batch == 4


@pytest.mark.parametrize(
    ("missing", "answer", "message"),
    [
        (
            {"/server_info", "/get_server_info"},
            None,
            r"is no SGLang server .* \(Not Found\): correct --server",
        ),
        (set(), {"version": "0.5.23"}, r"\(it does not state 'served_model_name'\): correct --server"),
        (set(), "<html>", r"/server_info does not answer in JSON \(<html>\): correct --server"),
    ],
)
def test_strangers(
    fake: FakeServer, connect: Callable[..., Server], missing: set[str], answer: Any, message: str
) -> None:
    fake.missing_paths = missing
    fake.faults["/server_info"] = [] if answer is None else [(200, answer)]
    with pytest.raises(UserError, match=message), connect():
        pass

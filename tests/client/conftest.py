"""A fake server for each test with clients that do not wait long, and one of SGLang's for all tests."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_server import FakeServer
from real_server import RealServer
from served_models import ALL_LINEAR, RANK, save_model

from sglang_mezo_plugin.client import Retries, Server
from sglang_mezo_plugin.client.launch import lora_words


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    server = FakeServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def connect(fake: FakeServer) -> Callable[..., Server]:
    def connect(**options: Any) -> Server:
        quick = Retries(count=2, patience=5.0, first_wait=0.01, longest_wait=0.05)
        return Server(fake.url, **{"run": "run", "timeout": 5.0, "retries": quick, **options})

    return connect


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Leave the other cores to the server: on models this small, threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("served") / "llama")


@pytest.fixture(scope="session")
def launch(
    model: Path, tmp_path_factory: pytest.TempPathFactory, forking_servers: None
) -> Callable[..., RealServer]:
    folder = tmp_path_factory.mktemp("servers")

    def launch(name: str, *words: str) -> RealServer:
        return RealServer(model, words, folder / f"{name}.log")

    return launch


@pytest.fixture(scope="session")
def real(launch: Callable[..., RealServer]) -> Iterator[RealServer]:
    """With four slots, and with both keys."""
    keys = ["--api-key", "key", "--admin-api-key", "admin"]
    with launch("lora", *lora_words(RANK, ALL_LINEAR, slots=4), *keys) as server:
        yield server

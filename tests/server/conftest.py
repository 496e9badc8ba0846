"""A fake server for each test, and clients that do not wait long."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_server import FakeServer

from sglang_mezo_plugin.server import Retries, Server


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

"""Keys, URLs, and servers that are down."""

import re
from collections.abc import Callable
from threading import Timer

import pytest
from asking import answer
from fake_server import FakeServer
from server_cases import config, tensors

from sglang_mezo_plugin.client import (
    Job,
    Member,
    Retries,
    Sampling,
    Server,
    Unauthorized,
    Unreachable,
)
from sglang_mezo_plugin.errors import UserError

GREEDY = Sampling(max_new_tokens=4)


def member(count: int) -> Member:
    return Member(lambda: tensors(4), config(), [Job("hi", GREEDY)] * count)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({}, "/server_info says 401: Unauthorized: pass the key that the server has as --api-key"),
        (
            {"api_key": "wrong"},
            "/server_info says 401: Unauthorized: pass the key that the server has as --api-key",
        ),
        (
            {"api_key": "key"},
            "_from_tensors says 401: Unauthorized: pass the key that the server has as --admin",
        ),
        ({"api_key": "key", "admin_api_key": "admin"}, None),
    ],
)
def test_keys(
    fake: FakeServer, connect: Callable[..., Server], keys: dict[str, str], message: str | None
) -> None:
    """A server with both keys takes, for loading, only that of administration."""
    fake.api_key, fake.admin_api_key = "key", "admin"

    def load() -> None:
        with connect(**keys) as server:
            job = Job("hi", GREEDY, server.load(tensors(4), config()))
            assert answer(fake.url, job, api_key="key").text == "4.0 says hi"

    if message is None:
        load()
    else:
        with pytest.raises(Unauthorized, match=re.escape(message)):
            load()
    assert fake.adapters == {}


def test_one_key_is_enough(fake: FakeServer, connect: Callable[..., Server]) -> None:
    fake.api_key = "key"
    with connect(api_key="key") as server:
        server.unload(server.load(tensors(4), config()))


def test_a_key_that_is_withdrawn_ends_the_evaluation(
    fake: FakeServer, connect: Callable[..., Server]
) -> None:
    with connect(api_key="key") as server:
        fake.faults["/generate"] = ["hang", (401, {"error": "Unauthorized"})]
        with pytest.raises(Unauthorized):
            server.evaluate_members([member(9)], concurrency=2)
        asked = fake.bodies("/generate")
        assert len(asked) <= 3 and fake.unused(asked[0]["lora_path"])


def test_unreachable(fake: FakeServer, connect: Callable[..., Server]) -> None:
    """At the start that is an error at once; in the middle of a run, the server may be restarting."""
    with connect() as server:
        fake.stop()
        again = Timer(0.4, fake.start)
        again.start()
        ((found,),) = server.evaluate_members([member(1)], concurrency=1)
        assert found.text == "4.0 says hi"
    fake.stop()
    with (
        pytest.raises(Unreachable, match=rf"{fake.url} cannot be reached \(.*\): start the server"),
        connect(),
    ):
        pass
    again = Timer(0.4, fake.start)
    again.start()
    with connect(start_patience=5.0, retries=Retries(patience=0.0)) as server:
        fake.stop()
        with pytest.raises(Unreachable):
            server.evaluate_members([member(3)], concurrency=3)
    fake.start()


@pytest.mark.parametrize("url", ["127.0.0.1:30000", "localhost", "ftp://host", "http://", ""])
def test_urls(url: str) -> None:
    with pytest.raises(
        UserError, match=re.escape(f"--server must be like http://127.0.0.1:30000, not {url!r}")
    ):
        Server(url, run="run")


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/"])
def test_urls_of_openai_clients(fake: FakeServer, path: str) -> None:
    with Server(f"{fake.url}{path}", run="run") as server:
        ((found,),) = server.evaluate_members([member(1)], concurrency=1)
        assert found.text == "4.0 says hi"

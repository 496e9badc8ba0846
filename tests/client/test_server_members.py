"""More members than slots."""

from collections.abc import Callable

import pytest
from fake_server import FakeServer
from server_cases import config, tensors

from sglang_mezo_plugin.client import Completion, Job, Member, Refused, Sampling, Server

PROMPTS = ["a", "b", "c"]


def members(count: int, ranks: dict[int, int] | None = None) -> list[Member]:
    jobs = [Job(prompt, Sampling(4)) for prompt in PROMPTS]
    return [
        Member(lambda n=n: tensors(n), config((ranks or {}).get(n, 2)), jobs[: 0 if n == 5 else None])
        for n in range(count)
    ]


def expected(count: int) -> list[list[str]]:
    return [[] if n == 5 else [f"{n}.0 says {prompt}" for prompt in PROMPTS] for n in range(count)]


def texts(outcomes: list[list[Completion | Exception]]) -> list[list[str]]:
    return [[outcome.text for outcome in row] for row in outcomes]


@pytest.mark.parametrize(("limit", "others", "most"), [(None, 0, 4), (5, 3, 2)])
def test_twelve_members_in_four_slots(
    fake: FakeServer, connect: Callable[..., Server], limit: int | None, others: int, most: int
) -> None:
    """Member 5 is asked nothing. Slots that others hold are left to them."""
    fake.info["max_loaded_loras"], fake.others = limit, [f"other-{n}" for n in range(others)]
    fake.delay = 0.02  # so that members are sent faster than two completions at a time end
    with connect() as server:
        assert texts(server.evaluate_members(members(12), concurrency=2)) == expected(12)
        assert fake.adapters == {} and fake.most_loaded == most and fake.most_in_flight == 2
    names = [body["lora_name"] for body in fake.bodies("/load_lora_adapter_from_tensors")]
    assert len(set(names)) == len(names) == 12


def test_a_member_that_is_refused(fake: FakeServer, connect: Callable[..., Server]) -> None:
    with connect() as server:
        found = server.evaluate_members(members(6, ranks={2: 64}), concurrency=5)
    assert texts(found[:2] + found[3:]) == [row for n, row in enumerate(expected(6)) if n != 2]
    assert [type(outcome) for outcome in found[2]] == [Refused] * 3
    assert "with rank 64 is incompatible" in str(found[2][0])


def test_a_server_that_restarts_has_lost_its_adapters(
    fake: FakeServer, connect: Callable[..., Server]
) -> None:
    fake.faults["/generate"] = [None, None, None, None, "restart"]
    with connect() as server:
        assert texts(server.evaluate_members(members(5), concurrency=2)) == expected(5)
    # Member 0 had all its answers, and no more than four were there to be lost.
    assert 5 < len(fake.bodies("/load_lora_adapter_from_tensors")) <= 5 + 4
    assert fake.adapters == {}


def test_a_server_that_restarts_again_and_again(fake: FakeServer, connect: Callable[..., Server]) -> None:
    fake.faults["/generate"] = ["restart", None, None, None] * 4
    with connect() as server:
        (found,) = server.evaluate_members(members(1), concurrency=1)
    assert [type(outcome) for outcome in found] == [Refused] * 3
    assert len(fake.bodies("/load_lora_adapter_from_tensors")) == 4

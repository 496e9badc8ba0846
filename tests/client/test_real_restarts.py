"""A server of SGLang's that is killed and started again, and one that was started without adapters."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from asking import answer, answers
from real_server import RealServer
from served_models import PROMPTS, adapters, expected, jobs

from sglang_mezo_plugin.client import (
    Job,
    Member,
    Refused,
    Sampling,
)
from sglang_mezo_plugin.errors import UserError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_members_of_a_server_that_is_killed(real: RealServer, model: Path) -> None:
    """Members that have all their answers are not asked again, the others are."""
    members, asked = adapters(model, 6), jobs(40)
    made: list[int] = []

    def make(number: int) -> Mapping[str, torch.Tensor]:
        made.append(number)
        return members[number].tensors

    # One of member 4's or 5's, while one or two others are in flight.
    with real.killed_at(5 * len(asked)), real.connect() as server:
        found = server.evaluate_members(
            [Member(lambda n=n: make(n), member.config, asked) for n, member in enumerate(members)],
            concurrency=3,
        )
        assert server.adapters() == []
    assert found == [expected(model, member.model, asked) for member in members]
    assert made[:2] == [0, 1] and made.count(0) == 1
    assert sorted(set(made)) == list(range(6)) and 6 < len(made) <= 6 + 4


def test_a_server_without_lora(launch: Callable[..., RealServer], model: Path) -> None:
    one = adapters(model, 1)[0]
    flags = "--enable-lora --max-lora-rank 4 --lora-target-modules q_proj v_proj --max-loras-per-batch 8"
    with launch("plain") as launched, launched.connect() as server:
        with pytest.raises(UserError, match=f"was started without LoRA: start it with {flags}$"):
            server.check_lora(one.tensors, one.config)
        with pytest.raises(Refused, match="says 400: LoRA is not enabled"):
            server.load(one.tensors, one.config)
        for prompt in PROMPTS:
            refusal = "says 400: LoRA adapter 'stranger' was requested, but LoRA is not enabled"
            with pytest.raises(Refused, match=re.escape(refusal)):
                answer(launched.url, Job(prompt, Sampling(4), "stranger"))
        with one.model.disable_adapter():
            assert answers(launched.url, jobs(4)) == expected(model, one.model, jobs(4))

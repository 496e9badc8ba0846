"""Learning rates are those of transformers, step by step."""

import pytest
import torch
from transformers import get_scheduler

from sglang_mezo_plugin.training.schedules import Schedule, learning_rate


@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 20])
@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_as_transformers(name: Schedule, warmup_steps: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-4)
    theirs = get_scheduler(
        "constant_with_warmup" if name == "constant" else name,
        optimizer,
        num_warmup_steps=warmup_steps,
        num_training_steps=20,
    )
    for step in range(1, 21):
        assert learning_rate(step, 20, 3e-4, name, warmup_steps) == theirs.get_last_lr()[0]
        optimizer.step()
        theirs.step()


def test_known_rates() -> None:
    assert [learning_rate(step, 4, 1.0, "linear", 2) for step in (1, 2, 3, 4, 5)] == [0, 0.5, 1, 0.5, 0]
    assert [learning_rate(step, 2, 1.0, "cosine") for step in (1, 2, 3)] == [1, pytest.approx(0.5), 0]
    assert [learning_rate(step, 4, 8.0, "constant", 2) for step in (1, 2, 3, 4)] == [0, 4, 8, 8]

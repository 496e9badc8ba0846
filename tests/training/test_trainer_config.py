"""Options of the loop that cannot be are refused by name."""

import math
import re
from typing import Any

import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.training.config import TrainerConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "--steps must be at least 1, not 0"),
        ({"learning_rate": 0.0}, "--learning-rate must be above 0 and finite, not 0.0"),
        ({"learning_rate": math.nan}, "--learning-rate must be above 0 and finite, not nan"),
        ({"eps": 0.0}, "--eps must be above 0 and finite, not 0.0"),
        ({"num_pairs": 0}, "--num-pairs must be at least 1, not 0"),
        ({"seed": 2**31}, "--seed must be in [0, 2**31), not 2147483648"),
        ({"steps": 2**31, "num_pairs": 3}, "--steps times --num-pairs must not exceed 2**32"),
        ({"distribution": "uniform"}, "--distribution must be one of gaussian, rademacher, not uniform"),
        ({"projected_grad_clip": 0.0}, "--projected-grad-clip must be above 0 and finite, not 0.0"),
        ({"schedule": "step"}, "--schedule must be one of constant, linear, cosine, not step"),
        ({"warmup_steps": 11}, "--warmup-steps must be at least 0 and at most --steps, not 11"),
        ({"warmup_steps": -1}, "--warmup-steps must be at least 0 and at most --steps, not -1"),
        ({"eval_steps": -1}, "--eval-steps must be at least 0, not -1"),
    ],
)
def test_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        TrainerConfig(**{"steps": 10, "learning_rate": 1e-3, **options})


def test_the_limits_are_accepted() -> None:
    TrainerConfig(steps=1, learning_rate=1e-300, warmup_steps=1, projected_grad_clip=5e-324, seed=2**31 - 1)
    TrainerConfig(steps=2**31, learning_rate=1.0, num_pairs=2)

"""Learning-rate schedules, equal to those of `transformers.get_scheduler`."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate(step: int, total_steps: int, base: float, name: Schedule, warmup_steps: int = 0) -> float:
    """Return the learning rate of step 1, ..., total_steps, in [0, base].

    It rises linearly from 0 in the first warmup_steps steps. Then it is constant, or falls to the 0 that step
    total_steps + 1 would have: linearly, or as half a cosine. As in transformers, step 1 of a warmup has
    rate 0.
    """
    done = step - 1
    if done < warmup_steps:
        return base * (done / warmup_steps)
    if name == "constant":
        return base
    remaining = total_steps - warmup_steps
    if name == "linear":
        return base * ((total_steps - done) / remaining)
    return base * (0.5 * (1 + math.cos(math.pi * ((done - warmup_steps) / remaining))))

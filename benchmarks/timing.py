"""Times of device work: by CUDA events where there is a GPU, by the clock elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from statistics import median
from time import perf_counter

import torch

# Makes so many training steps; calls back after each one, with its two losses.
Run = Callable[[int, Callable[[float, float], None]], None]


def median_ms(call: Callable[[], object], device: str, repeats: int = 20, warmup: int = 5) -> float:
    """Return the median time of a call, in milliseconds. The host never waits between two calls."""
    for _ in range(warmup):
        call()
    if device == "cpu":
        return median(_clock_ms(call) for _ in range(repeats))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(end) for start, end in events)


def step_ms(run: Run, steps: int, warmup: int, device: str) -> tuple[list[float], list[float]]:
    """Return the time of each of `steps` steps after `warmup` others, in milliseconds, and their losses at +.

    From the end of a step to the end of the next one, the device waited for; so all that a step does counts,
    the journal too. warmup: at least 1.
    """
    ends: list[float] = []
    losses: list[float] = []

    def note(loss_plus: float, loss_minus: float) -> None:
        synchronize(device)
        ends.append(perf_counter())
        losses.append(loss_plus)

    run(warmup + steps, note)
    times = [1e3 * (end - start) for start, end in pairwise(ends)]
    return times[-steps:], losses[-steps:]


def synchronize(device: str) -> None:
    """Wait until the device has done what it was told to."""
    if device == "cuda":
        torch.cuda.synchronize()


def _clock_ms(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return 1e3 * (perf_counter() - start)

"""Measure the cases of one model and carrier: built once, for all its lengths if memory allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean, median

import torch
from floors import Rates, work_of_step
from memory_use import allocated_gib, forget_peak, free_memory, is_out_of_memory, used_gib
from models import Model, random_examples
from step_profile import profile_steps
from timing import Run, step_ms

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Distribution
from sglang_mezo_plugin.tasks.example import Example
from sglang_mezo_plugin.tasks.sampler import Sampler

BASELINES = ("baseline", "baseline-fused")
CARRIERS = ("lora", "full", "forward", *BASELINES)
OUT_OF_MEMORY = "out of memory"


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    model: str
    length: int
    carrier: str
    noise: Distribution


@dataclass(frozen=True)
class Settings:
    """What all cases have in common."""

    device: str
    dtype: torch.dtype
    batch_size: int
    steps: int
    baseline_steps: int
    warmup: int
    tp_size: int
    dp_size: int
    lora_rank: int
    lora_target_modules: tuple[str, ...]
    server_args: tuple[str, ...]
    profiles: bool
    cuda_graph: bool

    def steps_of(self, carrier: str) -> int:
        return self.baseline_steps if carrier in BASELINES else self.steps


@dataclass(frozen=True)
class Result:
    """What was measured of a case.

    status: "ok" or "out of memory"; the numbers are None then. tokens: of a step, in one copy of its batch;
    loss: at theta + eps z; floor_ms: as `floors` has it; all three means over the timed steps. ms: the median
    of step_ms. allocated_gib, used_gib: the peak of tensors, and what the device then has in use; weights and
    pools are in both, and pools are sized for the longest of the lengths that were measured together.
    """

    case: Case
    status: str
    tokens: float | None = None
    ms: float | None = None
    step_ms: list[float] = field(default_factory=list)
    floor_ms: float | None = None
    loss: float | None = None
    allocated_gib: float | None = None
    used_gib: float | None = None
    kernels: str | None = None


def measure_cases(model: Model, cases: Sequence[Case], settings: Settings, rates: Rates) -> Iterator[Result]:
    """Measure cases that have their model, carrier and noise in common.

    What does not fit into memory is said in its result. If that is so for all lengths together, each one is
    tried by itself.
    """
    lengths = sorted({case.length for case in cases})
    carrier, noise = cases[0].carrier, cases[0].noise
    examples = {
        length: random_examples(model, length, settings.batch_size * (settings.warmup + settings.steps))
        for length in lengths
    }
    opened = False
    free_memory(settings.device)  # of what was measured before, now that nothing refers to it
    try:
        every = [e for length in lengths for e in examples[length]]
        with _open(model, carrier, noise, every, settings) as make_run:
            opened = True
            for case in cases:
                yield _measure(model, case, examples[case.length], settings, rates, make_run)
                free_memory(settings.device)
    except (UserError, RuntimeError) as error:
        if opened or not is_out_of_memory(error):
            raise
    if opened:
        return
    if len(lengths) == 1:
        yield from (Result(case, OUT_OF_MEMORY) for case in cases)
        return
    for length in lengths:
        own = [case for case in cases if case.length == length]
        yield from measure_cases(model, own, settings, rates)


def _measure(
    model: Model,
    case: Case,
    examples: Sequence[Example],
    settings: Settings,
    rates: Rates,
    make_run: Callable[[Sampler], Run],
) -> Result:
    device, steps = settings.device, settings.steps_of(case.carrier)
    sampler = Sampler(examples, settings.batch_size, seed=0)
    run = make_run(sampler)
    forget_peak(device)
    try:
        times, losses = step_ms(run, steps, settings.warmup, device)
        allocated, used = allocated_gib(device), used_gib(device)
        kernels = profile_steps(run, device) if settings.profiles else None
    except (UserError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return Result(case, OUT_OF_MEMORY)
    batches = [sampler.batch(settings.warmup + 1 + step).examples for step in range(steps)]
    updates = case.carrier in ("full", *BASELINES)
    works = [work_of_step(model, batch, settings.dtype.itemsize, updates) for batch in batches]
    devices = 1 if case.carrier in BASELINES else settings.tp_size * settings.dp_size
    return Result(
        case,
        "ok",
        tokens=fmean(sum(len(example.prompt) for example in batch) for batch in batches),
        ms=median(times),
        step_ms=times,
        floor_ms=fmean(work.floor_ms(rates, devices) for work in works),
        loss=fmean(losses),
        allocated_gib=allocated,
        used_gib=used,
        kernels=kernels,
    )


@contextmanager
def _open(
    model: Model, carrier: str, noise: Distribution, examples: Sequence[Example], settings: Settings
) -> Iterator[Callable[[Sampler], Run]]:
    """Yield what makes a run of a sampler's batches, with the model in memory."""
    if carrier in BASELINES:
        from baseline import MOVES, PlainMezo, baseline_run, random_model

        mezo = PlainMezo(random_model(model, settings.dtype, settings.device), MOVES[carrier])
        yield lambda sampler: baseline_run(mezo, sampler)
    else:
        from engine_steps import EngineOptions, engine_run, open_engine

        sizes = {"--tp-size": settings.tp_size, "--dp-size": settings.dp_size}
        ranks = [word for option, size in sizes.items() if size > 1 for word in (option, str(size))]
        options = EngineOptions(
            settings.device,
            settings.dtype,
            settings.batch_size,
            settings.lora_rank,
            settings.lora_target_modules,
            (*ranks, *settings.server_args),
            settings.cuda_graph,
        )
        with open_engine(model, carrier, examples, options, noise) as session:
            yield lambda sampler: engine_run(session.carrier, sampler)

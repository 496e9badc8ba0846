"""Where the time of a step goes: the kernels of three steps, by torch.profiler."""

from __future__ import annotations

from time import perf_counter

from timing import Run, synchronize
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

STEPS = 3
ROWS = 25
NAME = 100  # characters of a kernel's name


def profile_steps(run: Run, device: str) -> str:
    """Return a table of the kernels that take longest, and the device's and wall time, for a step.

    On a CPU, of operators. The profiler slows the host: a wall time of its own run tells whether it waits.
    """
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    profiler = profile(activities=activities)
    marks: list[float] = []  # the start, then the end of each step

    def after_step(loss_plus: float, loss_minus: float) -> None:
        synchronize(device)
        if not marks:
            profiler.start()
        marks.append(perf_counter())
        if len(marks) == 1 + STEPS:
            profiler.stop()

    run(1 + STEPS, after_step)
    wanted = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    rows = [
        (1e-3 * (row.self_device_time_total if device == "cuda" else row.self_cpu_time_total), row)
        for row in profiler.key_averages()
        if row.device_type == wanted and not row.is_user_annotation
    ]
    rows.sort(key=lambda row: -row[0])
    lines = [f"{'ms a step':>10}  {'calls':>7}  kernel"]
    lines += [f"{ms / STEPS:10.3f}  {row.count / STEPS:7.1f}  {row.key[:NAME]}" for ms, row in rows[:ROWS]]
    wall = 1e3 * (marks[STEPS] - marks[0]) / STEPS
    total = sum(ms for ms, _ in rows) / STEPS
    return "\n".join([*lines, f"{total:10.3f}  ms of {device} time a step, {wall:.3f} ms of wall time"])

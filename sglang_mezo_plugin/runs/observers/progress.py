"""How a run goes, on stderr: a bar on a terminal, lines in a log file."""

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from sglang_mezo_plugin.runs.entries import read_entries
from sglang_mezo_plugin.runs.journal import StepRecord

RECENT_STEPS = 20
LINE_SECONDS = 10.0
REFRESH_SECONDS = 0.2

Clock = Callable[[], float]
Metrics = Mapping[str, Any]
Numbers = Callable[[Sequence[Metrics]], list[str]]


def loss_numbers(recent: Sequence[Metrics]) -> list[str]:
    """Mean of both losses of each pair over the steps; the last one's projected gradient, learning rate."""
    losses = [(metrics["loss_plus"] + metrics["loss_minus"]) / 2 for metrics in recent]
    return [
        f"loss {fmean(losses):.4f}",
        f"grad {recent[-1]['projected_grad']:.3g}",
        f"lr {recent[-1]['learning_rate']:.3g}",
    ]


def reward_numbers(recent: Sequence[Metrics]) -> list[str]:
    """Mean, best and spread of the last generation, and theta's own reward if it was asked for."""
    last = recent[-1]
    mean = [f"theta {last['mean_reward']:.4f}"] if last.get("mean_reward") is not None else []
    spread = f"reward {last['reward']:.4f} ± {last['reward_std']:.4f}"
    return [spread, f"best {last['best_reward']:.4f}", *mean, f"{last['members']} members"]


class Progress:
    """An observer that shows step, numbers of the last 20 steps, speed and time left.

    steps/s is the speed of these steps alone. The time left includes evaluations, if there have been any
    since the first step. Each evaluation has its own line, with "best" if no loss has been as low before.

    On a terminal that is a bar. Elsewhere it is a line for the first step, for the last, and in between at
    most every 10 seconds or 1% of the steps, whichever is rarer; there are no control characters in it.

    folder: of the run; its evaluations from before a resume count for "best". quiet: show nothing. console:
    where to, by default stderr. clock: seconds, monotonic.
    """

    def __init__(
        self,
        folder: Path,
        quiet: bool = False,
        console: Console | None = None,
        clock: Clock = time.monotonic,
        numbers: Numbers = loss_numbers,
        unit: str = "step",
    ) -> None:
        # Without this, rich would take a log file for a terminal where FORCE_COLOR is set.
        console = console or Console(stderr=True, force_terminal=sys.stderr.isatty())
        self._folder = folder
        self._clock = clock
        self._numbers = numbers
        self._unit = unit
        self._recent: deque[Metrics] = deque(maxlen=RECENT_STEPS)
        self._view = _Nothing()
        if not quiet:
            self._view = _Bar(console, clock) if console.is_interactive else _Lines(console, clock, unit)

    def on_start(self, first_step: int, total_steps: int) -> None:
        self._first_step = first_step
        self._total_steps = total_steps
        evaluations = read_entries(self._folder / "evals.jsonl", "loss")
        self._best_loss = min((evaluation["loss"] for evaluation in evaluations), default=math.inf)
        self._view.start(first_step, total_steps)

    def on_step(self, record: StepRecord, metrics: dict[str, Any]) -> None:
        self._recent.append(metrics)
        seconds = fmean(metrics["seconds"] for metrics in self._recent)
        speed = f"{seconds:.3g} s/{self._unit}" if seconds > 9 else f"{1 / seconds:.3g} {self._unit}s/s"
        self._view.step(record.step, [*self._numbers(self._recent), speed, *self._time_left(record.step)])

    def on_eval(self, step: int, metrics: dict[str, float]) -> None:
        name = "reward" if "reward" in metrics else "loss"
        line = f"{self._unit} {step}  eval {name} {metrics[name]:.4f}"
        if "accuracy" in metrics:
            line += f"  accuracy {metrics['accuracy']:.1%}"
        best = metrics["loss"] < self._best_loss
        self._best_loss = min(self._best_loss, metrics["loss"])
        self._view.evaluation(line, best)

    def on_end(self, status: str) -> None:
        self._view.end()

    def _time_left(self, step: int) -> list[str]:
        """By the mean since the first step's end: what that step compiles would mislead for long."""
        now = self._clock()
        if step == self._first_step:
            self._first_step_end = now
            return []
        seconds = (now - self._first_step_end) / (step - self._first_step) * (self._total_steps - step)
        minutes, seconds = divmod(round(seconds), 60)
        return [f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left"]


class _Nothing:
    """A view that shows nothing."""

    def start(self, first_step: int, total_steps: int) -> None: ...

    def step(self, step: int, numbers: list[str]) -> None: ...

    def evaluation(self, line: str, best: bool) -> None: ...

    def end(self) -> None: ...


class _Lines(_Nothing):
    """Plain lines, written out at once."""

    def __init__(self, console: Console, clock: Clock, unit: str) -> None:
        self._console = console
        self._clock = clock
        self._unit = unit
        self._waiting: str | None = None

    def start(self, first_step: int, total_steps: int) -> None:
        self._total_steps = total_steps
        self._next_step = first_step
        self._next_time = self._clock()

    def step(self, step: int, numbers: list[str]) -> None:
        self._waiting = "  ".join([f"{self._unit} {step}/{self._total_steps}", *numbers])
        now = self._clock()
        if step == self._total_steps or (step >= self._next_step and now >= self._next_time):
            self._next_step = step + math.ceil(self._total_steps / 100)
            self._next_time = now + LINE_SECONDS
            self._flush()

    def evaluation(self, line: str, best: bool) -> None:
        self._console.out(line + "  best" * best, highlight=False)

    def end(self) -> None:
        if self._waiting:
            self._flush()

    def _flush(self) -> None:
        self._console.out(self._waiting, highlight=False)
        self._waiting = None


class _Bar(_Nothing):
    """A bar at the bottom, evaluations above it.

    It is drawn by the steps themselves: a thread for it would compete with the launches of a forward pass.
    """

    def __init__(self, console: Console, clock: Clock) -> None:
        self._clock = clock
        self._bar = RichProgress(
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} {task.description}"),
            console=console,
            auto_refresh=False,
            expand=True,
            redirect_stdout=False,
        )

    def start(self, first_step: int, total_steps: int) -> None:
        self._total_steps = total_steps
        self._next_time = self._clock()
        self._task = self._bar.add_task("", total=total_steps, completed=first_step - 1)
        self._bar.start()

    def step(self, step: int, numbers: list[str]) -> None:
        self._bar.update(self._task, completed=step, description=" ".join(numbers))
        now = self._clock()
        if step == self._total_steps or now >= self._next_time:
            self._next_time = now + REFRESH_SECONDS
            self._bar.refresh()

    def evaluation(self, line: str, best: bool) -> None:
        self._bar.console.print(Text.assemble(line, ("  best", "bold green") if best else ""), soft_wrap=True)

    def end(self) -> None:
        self._bar.stop()

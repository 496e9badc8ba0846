"""The loop: estimate -> journal -> update.

An estimator evaluates the model around its weights, by losses of a batch at theta +- eps z or by rewards of a
population, and returns the step's record: directions, and the projected gradient along each.

The journal hears of a step before the weights move. So it is never behind them, and replaying it on the
base weights is the whole truth about a run: an uninterrupted run and one that was killed anywhere and resumed
write the same journal and end with the same bits.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Literal, Protocol

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.folder import RunFolder
from sglang_mezo_plugin.runs.journal import Journal, StepRecord
from sglang_mezo_plugin.training.carrier import Trainable
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.estimators import CURE, Estimator, NonFiniteLoss
from sglang_mezo_plugin.training.optimizers import Optimizer
from sglang_mezo_plugin.training.stopping import StopRequest


class Observer(Protocol):
    """Hears of a run: a progress bar, a log. It gets copies, and cannot change a number."""

    def on_start(self, first_step: int, total_steps: int) -> None: ...

    def on_step(self, record: StepRecord, metrics: dict[str, Any]) -> None: ...

    def on_eval(self, step: int, metrics: dict[str, float]) -> None: ...

    def on_end(self, status: str) -> None:
        """status: "finished", "stopped" by a signal, or "failed" with the exception that now goes on."""
        ...


@dataclass(frozen=True)
class RunResult:
    """How a run ended. Evaluations are {"step", "loss", ...}; None if there was none.

    best: the evaluation with the lowest loss, the earliest of equals. seconds_per_step: the median over the
    steps that this process made; None if it made none.
    """

    status: Literal["finished", "stopped"]
    last_step: int
    best: Mapping[str, Any] | None
    first_evaluation: Mapping[str, Any] | None
    last_evaluation: Mapping[str, Any] | None
    seconds_per_step: float | None


def replay(carrier: Trainable, optimizer: Optimizer, records: Sequence[StepRecord]) -> None:
    """Bring base weights to the last of these steps, by the updates of a journal."""
    optimizer.attach(carrier)
    for record in records:
        _update(optimizer, record)


def check_steps(journal: Path, records: Sequence[StepRecord], config: TrainerConfig) -> None:
    """Raise UserError if a journal holds more steps than asked for."""
    if len(records) > config.steps:
        raise UserError(f"{journal} holds {len(records)} steps: pass --steps {len(records)} or more")


class Trainer:
    """One run: what its journal already holds is replayed, the rest is made.

    carrier: with base weights. journal: open, as returned by `folder.open_journal`. evaluate: returns
    {"loss", ...} at the present weights; None: no evaluations. save_best: called when an evaluation is better
    than all before it, the one at step 0 included. save_last: called when training ends, finished or stopped,
    before the summary says so; it returns what the summary is to say besides.

    UserError if the carrier keeps no parameters and the optimizer needs them, or if the journal holds more
    steps than asked for.
    """

    def __init__(
        self,
        carrier: Trainable,
        optimizer: Optimizer,
        estimator: Estimator,
        journal: Journal,
        folder: RunFolder,
        config: TrainerConfig,
        evaluate: Callable[[], dict[str, float]] | None = None,
        observers: Sequence[Observer] = (),
        save_best: Callable[[], None] | None = None,
        save_last: Callable[[], Mapping[str, Any]] | None = None,
    ) -> None:
        check_steps(journal.path, journal.records, config)
        optimizer.attach(carrier)
        self.carrier = carrier
        self.optimizer = optimizer
        self.estimator = estimator
        self.journal = journal
        self.folder = folder
        self.config = config
        self.evaluate = evaluate
        self.observers = observers
        self.save_best = save_best
        self.save_last = save_last
        self._seconds: list[float] = []

    def run(self) -> RunResult:
        """Train to the last step, or until SIGINT or SIGTERM: the step then ends, without an evaluation.

        NonFiniteLoss if a loss is; nothing is recorded of that step. UserError if the data are not those that
        the journal was made with. After any error the run can be resumed by a new Trainer.
        """
        with StopRequest() as stop:
            self._check_batches()
            replay(self.carrier, self.optimizer, self.journal.records)
            for observer in self.observers:
                observer.on_start(len(self.journal.records) + 1, self.config.steps)
            status = "failed"
            try:
                status = self._train(stop)
            finally:
                for observer in self.observers:
                    observer.on_end(status)
            saved = self.save_last() if self.save_last is not None else {}
            result = self._result(status)
            self.folder.write_summary({**asdict(result), **saved})
        return result

    def _check_batches(self) -> None:
        for record in self.journal.records[-1:]:
            if self.estimator.batch_identity(record.step) != record.batch:
                raise UserError(
                    f"{self.journal.path}: the batch of step {record.step} is now another one: restore the "
                    "data and the options that choose it, or choose another --output-dir"
                )

    def _train(self, stop: StopRequest) -> Literal["finished", "stopped"]:
        step = len(self.journal.records)
        while True:
            due = self._evaluation_is_due(step)
            if step == self.config.steps and not due:
                return "finished"
            if stop.requested:
                return "stopped"
            if due:
                self._evaluate(step)
            else:
                step += 1
                self._step(step)

    def _step(self, step: int) -> None:
        start = perf_counter()
        record, found = self.estimator(step)
        self.journal.append(record)
        _update(self.optimizer, record)
        seconds = perf_counter() - start
        self._seconds.append(seconds)
        metrics = {**self.folder.describe(record, seconds), **found}
        self.folder.add_metrics(metrics)
        for observer in self.observers:
            observer.on_step(record, dict(metrics))

    def _evaluation_is_due(self, step: int) -> bool:
        done = bool(self.folder.evaluations) and self.folder.evaluations[-1]["step"] == step
        every = self.config.eval_steps
        scheduled = step in (0, self.config.steps) or (every > 0 and step % every == 0)
        return self.evaluate is not None and scheduled and not done

    def _evaluate(self, step: int) -> None:
        metrics = self.evaluate()
        if not math.isfinite(metrics["loss"]):
            raise NonFiniteLoss(f"step {step}: the evaluation's loss is {metrics['loss']}: {CURE}")
        best = self._best()
        # Saved before it is recorded: a kill in between makes the resumed run evaluate, and save, again.
        if self.save_best is not None and (best is None or metrics["loss"] < best["loss"]):
            self.save_best()
        self.folder.add_evaluation({"step": step, **metrics})
        for observer in self.observers:
            observer.on_eval(step, dict(metrics))

    def _best(self) -> dict[str, Any] | None:
        return min(self.folder.evaluations, key=lambda evaluation: evaluation["loss"], default=None)

    def _result(self, status: Literal["finished", "stopped"]) -> RunResult:
        evaluations = self.folder.evaluations
        return RunResult(
            status,
            len(self.journal.records),
            self._best(),
            evaluations[0] if evaluations else None,
            evaluations[-1] if evaluations else None,
            median(self._seconds) if self._seconds else None,
        )


def _update(optimizer: Optimizer, record: StepRecord) -> None:
    """Move the weights by a step, all of whose numbers are those of its record."""
    grads = list(zip(record.seeds, record.projected_grads, strict=True))
    optimizer.update(grads, record.learning_rate, record.step)

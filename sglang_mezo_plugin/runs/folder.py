"""The files of a run in its --output-dir, and how they agree with the journal after a kill.

journal.jsonl   the record of every step; what counts
metrics.jsonl   an object a step: step, loss_plus, loss_minus, projected_grad (means over the pairs),
                learning_rate, seconds (null for a step whose time was lost with a kill)
evals.jsonl     an object an evaluation: step, loss and perhaps accuracy
summary.json    how the run ended
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.entries import append, cut_back, sync
from sglang_mezo_plugin.runs.journal import Header, Journal, StepRecord, holds_run, writing

Describe = Callable[[StepRecord, float | None], dict[str, Any]]
"""describe(record, seconds): what `metrics.jsonl` says of a step; seconds are None where a kill lost them."""


class RunFolder:
    """The folder of a run, made if need be. UserError if that cannot be, or if it cannot be written.

    describe: makes a step's line of `metrics.jsonl`; by default that of training. evaluations: those of
    `evals.jsonl`, by step, once the journal is open.
    """

    def __init__(self, path: Path, describe: Describe | None = None) -> None:
        self.path = path
        self.describe = describe or step_metrics
        self.journal = path / "journal.jsonl"
        self.metrics = path / "metrics.jsonl"
        self.evals = path / "evals.jsonl"
        self.summary = path / "summary.json"
        self.evaluations: list[dict[str, Any]] = []
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output-dir {path}: {error.strerror}: choose another --output-dir") from error
        if not os.access(path, os.W_OK | os.X_OK):
            raise UserError(f"--output-dir {path} cannot be written: choose another --output-dir")

    def open_journal(self, header: Header, *, resume: bool) -> Journal:
        """Start a run, or with resume go on with the one that is here, if any has made a step.

        Without resume, UserError if there is such a run; with it, if that run's header is not this one.
        The other files are brought to the journal's last step.
        """
        if not holds_run(self.journal):
            journal = Journal.create(self.journal, header)
            with writing(self.path):
                for path in (self.metrics, self.evals, self.summary):
                    path.unlink(missing_ok=True)
            return journal
        if not resume:
            raise UserError(f"{self.path} holds another run: choose another --output-dir, or add --resume")
        journal = Journal.open(self.journal)
        try:
            journal.header.check_same_run(header, self.path)
            self._bring_to(journal.records)
        except BaseException:
            journal.close()
            raise
        return journal

    def add_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Append a step's metrics."""
        append(self.metrics, [metrics])

    def add_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """Append an evaluation, {"step", "loss", ...}, and wait for the disk: it may have taken hours."""
        append(self.evals, [evaluation], wait=True)
        self.evaluations.append(dict(evaluation))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write `summary.json`, whole or not at all."""
        new = self.summary.with_suffix(".json.new")
        with writing(self.summary):
            with new.open("w") as file:
                file.write(json.dumps(summary, indent=2, allow_nan=False) + "\n")
                sync(file)
            new.replace(self.summary)

    def _bring_to(self, records: Sequence[StepRecord]) -> None:
        """Cut metrics and evaluations back to the last step; fill in the metrics that are missing."""
        last = len(records)
        with writing(self.path):
            self.summary.unlink(missing_ok=True)
        known = cut_back(self.metrics, lambda previous: range(previous + 1, min(previous + 1, last) + 1))
        append(self.metrics, [self.describe(record, None) for record in records[len(known) :]])
        self.evaluations = cut_back(self.evals, lambda previous: range(previous + 1, last + 1), before=-1)


def step_metrics(record: StepRecord, seconds: float | None) -> dict[str, Any]:
    """Return a step's line of `metrics.jsonl`; losses and projected gradient are means over its pairs."""
    return {
        "step": record.step,
        "loss_plus": fmean(record.loss_plus),
        "loss_minus": fmean(record.loss_minus),
        "projected_grad": fmean(record.projected_grads),
        "learning_rate": record.learning_rate,
        "seconds": seconds,
    }

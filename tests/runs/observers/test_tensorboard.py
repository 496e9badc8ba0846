"""TensorBoard's own reader finds the run's numbers, each once, whatever became of the process."""

import errno
import json
import math
import os
import re
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from journal_cases import record
from quadratic_runs import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.observers.tensorboard import TensorBoard
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.estimators import NonFiniteLoss


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: (step, value) by tag."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def age(folder: Path) -> None:
    """Make the files older: TensorBoard reads them by name, which tells the second that they are of."""
    for path in (folder / "tensorboard").iterdir():
        path.rename(path.with_name(path.name.replace("tfevents.", "tfevents.0")))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics(loss: float) -> dict[str, float]:
    return {"loss_plus": loss, "loss_minus": loss, "projected_grad": loss, "learning_rate": loss}


def test_a_run_that_fails_and_is_resumed(tmp_path: Path) -> None:
    """What is shown is what the files say, in fp32, as if nothing had happened."""
    config = TrainerConfig(6, 2.0**-7, num_pairs=2, schedule="linear", eval_steps=2)
    losses: Iterator[float] = iter([5.0, 4.0, math.nan, 3.0, 2.0])
    for resume, end in (
        (False, pytest.raises(NonFiniteLoss, match="step 4: the evaluation")),
        (True, nullcontext()),
    ):
        run = Run(tmp_path, config, resume=resume)
        run.evaluate = lambda: {"loss": next(losses)}
        with end:
            run.go(lambda trainer: setattr(trainer, "observers", [TensorBoard(tmp_path)]))
        age(tmp_path)
    steps, evaluations = lines(tmp_path / "metrics.jsonl"), lines(tmp_path / "evals.jsonl")
    assert [entry["step"] for entry in steps] == [1, 2, 3, 4, 5, 6]
    expected = {
        f"train/{name}": [(entry["step"], np.float32(entry[name])) for entry in steps]
        for name in ("loss_plus", "loss_minus", "projected_grad", "learning_rate")
    }
    expected["train/loss"] = [
        (entry["step"], np.float32((entry["loss_plus"] + entry["loss_minus"]) / 2)) for entry in steps
    ]
    expected["eval/loss"] = [(entry["step"], entry["loss"]) for entry in evaluations]
    assert [step for step, _ in expected["eval/loss"]] == [0, 2, 4, 6]
    assert scalars(tmp_path) == expected


def test_numbers_are_there_at_once(tmp_path: Path) -> None:
    """A kill takes none of them; and a resumed run would not write them again."""
    threads = threading.active_count()
    board = TensorBoard(tmp_path)
    board.on_start(1, 9)
    board.on_eval(0, {"loss": 2.0, "accuracy": 0.5})
    board.on_step(record(1), metrics(4.0))
    shown = scalars(tmp_path)
    board.on_end("failed")
    assert threading.active_count() == threads
    assert shown == scalars(tmp_path)
    assert (shown["eval/loss"], shown["eval/accuracy"]) == ([(0, 2.0)], [(0, 0.5)])
    assert shown["train/loss"] == shown["train/projected_grad"] == [(1, 4.0)]


@pytest.mark.parametrize(
    ("first", "losses", "evaluations"),
    [
        (3, [(1, 1.0), (2, 1.0), (3, 2.0)], [(0, 1.0), (2, 1.0), (3, 2.0)]),
        # A run whose journal has no step starts over, with the evaluation of step 0.
        (1, [(1, 2.0)], [(0, 2.0), (1, 2.0)]),
    ],
)
def test_steps_made_again_are_shown_once(
    tmp_path: Path, first: int, losses: list[tuple[int, float]], evaluations: list[tuple[int, float]]
) -> None:
    """After a power cut the journal may lack the last steps that were shown."""
    board = TensorBoard(tmp_path)
    board.on_start(1, 9)
    for step in range(6):
        if step:
            board.on_step(record(step), metrics(1.0))
        if step % 2 == 0:
            board.on_eval(step, {"loss": 1.0})
    board.on_end("failed")
    age(tmp_path)
    board = TensorBoard(tmp_path)
    board.on_start(first, 9)
    if first == 1:
        board.on_eval(0, {"loss": 2.0})
    board.on_step(record(first), metrics(2.0))
    board.on_eval(first, {"loss": 2.0})
    board.on_end("stopped")
    shown = scalars(tmp_path)
    assert (shown["train/loss"], shown["eval/loss"]) == (losses, evaluations)


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorboard").touch()
    message = (
        f"^cannot write {re.escape(str(tmp_path))}/tensorboard: File exists: .*choose another --output-dir$"
    )
    with pytest.raises(UserError, match=message):
        TensorBoard(tmp_path)
    (tmp_path / "tensorboard").unlink()
    board = TensorBoard(tmp_path)
    board.on_start(1, 9)

    def full_disk(writer: SummaryWriter) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(SummaryWriter, "flush", full_disk)
    with pytest.raises(UserError, match="tensorboard: No space left on device: mend that"):
        board.on_eval(0, {"loss": 1.0})
    board.on_end("failed")

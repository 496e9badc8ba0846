"""Runs that nobody interrupts, each made once a session, and how others are compared with them."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from children import Child, Commands, wait_for

STEPS = 40
METHODS: dict[str, list[Any]] = {
    "lora": ["--mode", "lora", "--learning-rate", 3e-3],
    "lora-adam": [
        *("--mode", "lora", "--learning-rate", 3e-3, "--num-pairs", 3, "--optimizer", "adam"),
        *("--warmup-steps", 3, "--distribution", "rademacher"),
    ],
    "full": [
        *("--mode", "full", "--learning-rate", 3e-5, "--weight-decay", 10, "--distribution", "rademacher"),
    ],
    "full-bfloat16": [
        *("--mode", "full", "--learning-rate", 2e-4, "--weight-decay", 10, "--dtype", "bfloat16"),
    ],
}


@dataclass(frozen=True)
class Run:
    """moments[n]: when the journal had n lines, in seconds; the last one: when the command ended."""

    folder: Path
    moments: list[float]

    @property
    def output(self) -> Path:
        return output(self.folder)


def output(folder: Path) -> Path:
    return next(path for name in ("adapter", "model") if (path := folder / name).exists())


def make_run(commands: Commands, words: list[Any], folder: Path) -> Run:
    child = commands.start_command("train", [*words, "--steps", STEPS, "--output-dir", folder])
    moments = []
    for number in range(STEPS + 2):
        wait_for(lambda number=number: lines(folder) >= number, child)
        moments.append(time.monotonic())
    outcome = child.wait()
    assert outcome.exit_code == 0, outcome.stderr
    return Run(folder, [*moments, time.monotonic()])


def lines(folder: Path) -> int:
    """The lines of the journal so far: one more than its steps."""
    journal = folder / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def wait_for_step(step: int, folder: Path, child: Child) -> None:
    wait_for(lambda: lines(folder) > step, child)


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def check_same_end(folder: Path, whole: Path) -> None:
    """Check that a run has all that another has, byte for byte; times and places apart."""
    found, expected = (
        {name: data for name, data in tree(path).items() if not name.startswith("tensorboard")}
        for path in (folder, whole)
    )
    assert found.keys() == expected.keys()
    about_this_run = {"README.md", "options.json", "metrics.jsonl", "summary.json", "loss.png"}
    assert about_this_run < found.keys()
    for name in found.keys() - about_this_run:
        assert found[name] == expected[name], name
    check_metrics(rows(folder / "metrics.jsonl"), rows(whole / "metrics.jsonl"))
    own = ("seconds_per_step", "cache_hit_rate", "output", "serve")
    summaries = [json.loads((path / "summary.json").read_text()) for path in (folder, whole)]
    assert summaries[0].keys() == summaries[1].keys() > set(own)
    assert without(summaries[0], *own) == without(summaries[1], *own)


def check_metrics(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Check one object a step; seconds are lost with a kill."""
    names = ["step", "loss_plus", "loss_minus", "projected_grad", "learning_rate", "seconds"]
    assert [row["step"] for row in found] == list(range(1, len(expected) + 1))
    for row, other in zip(found, expected, strict=True):
        assert list(row) == names
        assert row["seconds"] is None or row["seconds"] > 0
        assert without(row, "seconds") == without(other, "seconds")

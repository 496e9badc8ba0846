"""What people see of a run by evolution strategies: its picture and its lines."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from sglang_mezo_plugin.runs.journal import StepRecord
from sglang_mezo_plugin.runs.observers.plots import plot_rewards
from sglang_mezo_plugin.runs.observers.progress import Progress, reward_numbers
from sglang_mezo_plugin.training.evolution import population_metrics


def record(step: int) -> StepRecord:
    """Members with rewards step and step + 2 at +, 0 and 2 at -."""
    return StepRecord(step, (1, 2), (-step, -step - 2.0), (0.0, -2.0), (0.5, 0.25), 0.125, "batch")


@pytest.mark.parametrize("asked", [False, True], ids=["members alone", "and theta"])
def test_the_picture_has_the_metrics(asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [population_metrics(record(step), None) for step in (1, 2, 3)]
    if asked:
        entries[0] |= {"mean_reward": 0.5}
        entries[2] |= {"mean_reward": 2.5}  # a kill lost that of the second
    evaluations = [{"step": step, "loss": -r, "reward": r} for step, r in ((0, 0.25), (2, 4.0), (3, 1.0))]
    for name, rows in (("metrics", entries), ("evals", evaluations)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures: list[Figure] = []
    savefig = Figure.savefig

    def save(figure: Figure, path: Path) -> None:
        figures.append(figure)
        savefig(figure, path)

    monkeypatch.setattr(Figure, "savefig", save)
    assert plot_rewards(tmp_path) == tmp_path / "reward.png"
    (axes,) = figures[0].axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    expected = {
        "members: mean ± standard deviation": [[1, 1.5], [2, 2.0], [3, 2.5]],
        "best member": [[1, 3], [2, 4], [3, 5]],
        "evaluation": [[0, 0.25], [2, 4.0], [3, 1.0]],
        "best: 4.0000 at generation 2": [[2, 4.0]],
    }
    assert drawn == expected | ({"theta itself": [[1, 0.5], [3, 2.5]]} if asked else {})
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert np.isclose(corners[:, 1].max(), 2.5 + np.std([3, 5, 0, 2]))
    assert np.isclose(corners[:, 1].min(), 1.5 - np.std([1, 3, 0, 2]))


def test_a_line_says_how_a_generation_went(tmp_path: Path) -> None:
    text, clock = io.StringIO(), iter([0.0, 0.0, 30.0, 30.0, 60.0, 60.0])
    console = Console(file=text, width=200, force_terminal=False)
    progress = Progress(
        tmp_path, console=console, clock=lambda: next(clock), numbers=reward_numbers, unit="generation"
    )
    progress.on_start(1, 2)
    progress.on_step(record(1), {**population_metrics(record(1), 30.0), "mean_reward": 0.5})
    progress.on_step(record(2), population_metrics(record(2), 20.0))
    progress.on_eval(2, {"loss": -4.0, "reward": 4.0})
    progress.on_end("finished")
    assert text.getvalue().splitlines() == [
        "generation 1/2  reward 1.5000 ± 1.1180  best 3.0000  theta 0.5000  4 members  30 s/generation",
        "generation 2/2  reward 2.0000 ± 1.4142  best 4.0000  4 members  25 s/generation  0:00:00 left",
        "generation 2  eval reward 4.0000  best",
    ]

"""A picture of a run: its losses and accuracies, or its rewards."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sglang_mezo_plugin.runs.entries import read_entries
from sglang_mezo_plugin.runs.journal import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PIXELS = (1000, 600)
DPI = 100
TRAINING = "tab:blue"
EVALUATION = "tab:orange"
ACCURACY = "tab:green"


def plot_losses(folder: Path) -> Path:
    """Draw folder/loss.png, 1000 x 600 pixels, from the files of a run, finished or not; return its path.

    Training losses are means of both sides of a pair, with their running mean; evaluations with the best of
    them marked; below, their accuracies if they have any. Needs no display, and leaves pyplot alone.

    UserError if metrics.jsonl or evals.jsonl is damaged, or if the picture cannot be written.
    """
    steps = read_entries(folder / "metrics.jsonl", "step", "loss_plus", "loss_minus")
    evaluations = read_entries(folder / "evals.jsonl", "step", "loss")
    with_accuracy = [evaluation for evaluation in evaluations if "accuracy" in evaluation]
    path = folder / "loss.png"
    with _picture(path, "step", 2 if with_accuracy else 1) as panels:
        _draw_training(panels[0], steps)
        if evaluations:
            _draw_evaluations(panels[0], evaluations, "loss", "step")
        panels[0].set_ylabel("loss")
        panels[0].legend(loc="upper right")
        if with_accuracy:
            _draw_accuracies(panels[1], with_accuracy)
        _end_at(panels[-1], steps, evaluations)
    return path


def plot_rewards(folder: Path) -> Path:
    """Draw folder/reward.png of a run by evolution strategies; as `plot_losses` but for what is in it.

    For each generation the mean of its members' rewards, one standard deviation around it, and the best;
    theta's own where it was asked; evaluations with the best of them marked.
    """
    steps = read_entries(folder / "metrics.jsonl", "step", "reward", "best_reward", "reward_std")
    evaluations = read_entries(folder / "evals.jsonl", "step", "reward")
    asked = [entry for entry in steps if entry.get("mean_reward") is not None]
    path = folder / "reward.png"
    with _picture(path, "generation", 1) as (axes,):
        marker = "." if len(steps) < 40 else ""
        x, mean, best, spread = _columns(steps, "step", "reward", "best_reward", "reward_std")
        axes.fill_between(x, mean - spread, mean + spread, color=TRAINING, alpha=0.2, linewidth=0)
        axes.plot(x, mean, color=TRAINING, marker=marker, label="members: mean ± standard deviation")
        axes.plot(x, best, color=ACCURACY, marker=marker, linewidth=0.8, label="best member")
        if asked:
            own = _columns(asked, "step", "mean_reward")
            axes.plot(*own, color="black", marker=marker, label="theta itself")
        if evaluations:
            _draw_evaluations(axes, evaluations, "reward", "generation")
        axes.set_ylabel("reward")
        axes.legend(loc="best")
        _end_at(axes, steps, evaluations)
    return path


@contextmanager
def _picture(path: Path, unit: str, count: int) -> Iterator[list["Axes"]]:
    """Make a figure of panels one below the other, and write it at the end. unit: what the x axis counts."""
    # Slow to import: only those who want a picture should wait for it.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(PIXELS[0] / DPI, PIXELS[1] / DPI), dpi=DPI, layout="constrained")
    # A "$" in a name is no mathematics.
    figure.suptitle(_title(path.parent), fontsize=14, parse_math=False)
    panels = list(figure.subplots(count, sharex=True, height_ratios=(5, 2)[:count], squeeze=False)[:, 0])
    yield panels
    panels[-1].set_xlabel(unit)
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=(1, 2, 5, 10)))
    figure.align_ylabels()
    for axes in panels:
        axes.grid(alpha=0.3)
    with writing(path):
        figure.savefig(path)


def _end_at(axes: "Axes", *entries: list[dict[str, Any]]) -> None:
    """Let the axis end with the last step of anything."""
    last = max([entry["step"] for part in entries for entry in part[-1:]] + [1])
    axes.set_xlim(-0.02 * last, 1.02 * last)


def running_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Return the means of all `window` successive values: of [n], [n - window + 1]."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return (sums[window:] - sums[:-window]) / window


def _draw_training(axes: "Axes", steps: list[dict[str, Any]]) -> None:
    x, plus, minus = _columns(steps, "step", "loss_plus", "loss_minus")
    loss = (plus + minus) / 2
    window = max(1, min(20, len(loss) // 4), len(loss) // 50)
    # Points, lest a lone step be a line of no length.
    marker = "." if len(loss) < 40 else ""
    alpha = 0.3 if window > 1 else 1.0
    axes.plot(x, loss, color=TRAINING, marker=marker, linewidth=0.8, alpha=alpha, label="training batches")
    if window > 1:
        # A mean stands in the middle of its steps: at their end it would lag behind the evaluations.
        means = [running_mean(values, window) for values in (x, loss)]
        axes.plot(*means, color=TRAINING, marker=marker, linewidth=2, label=f"mean of {window} steps")


def _draw_evaluations(axes: "Axes", evaluations: list[dict[str, Any]], name: str, unit: str) -> None:
    """Draw them, and mark the best one: of the least loss, which is of the greatest reward."""
    x, values = _columns(evaluations, "step", name)
    axes.plot(x, values, "o-", color=EVALUATION, label="evaluation")
    best = values.argmin() if name == "loss" else values.argmax()
    label = f"best: {values[best]:.4f} at {unit} {x[best]:.0f}"
    axes.plot(
        x[best], values[best], "*", color=EVALUATION, markeredgecolor="black", markersize=15, label=label
    )


def _draw_accuracies(axes: "Axes", evaluations: list[dict[str, Any]]) -> None:
    from matplotlib.ticker import PercentFormatter

    x, y = _columns(evaluations, "step", "accuracy")
    axes.plot(x, 100 * y, "o-", color=ACCURACY)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter())


def _title(folder: Path) -> str:
    """Return the folder's name, with that of the model if the training command has left its options there."""
    name, options = folder.resolve().name, folder / "options.json"
    if not options.exists():
        return name
    model_path = json.loads(options.read_text())["model_path"]
    return f"{name} ({Path(model_path).resolve().name})"


def _columns(entries: list[dict[str, Any]], *names: str) -> list[NDArray[np.float64]]:
    return [np.array([entry[name] for entry in entries], dtype=np.float64) for name in names]

"""A picture of a run: its losses, and its accuracy where there is one."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sglang_mezo_plugin.journal import writing
from sglang_mezo_plugin.observers.entries import read_entries

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
    # Slow to import: only those who want a picture should wait for it.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    steps = read_entries(folder / "metrics.jsonl", "step", "loss_plus", "loss_minus")
    evaluations = read_entries(folder / "evals.jsonl", "step", "loss")
    with_accuracy = [evaluation for evaluation in evaluations if "accuracy" in evaluation]

    figure = Figure(figsize=(PIXELS[0] / DPI, PIXELS[1] / DPI), dpi=DPI, layout="constrained")
    # A "$" in a name is no mathematics.
    figure.suptitle(_title(folder), fontsize=14, parse_math=False)
    if with_accuracy:
        losses, accuracies = figure.subplots(2, sharex=True, height_ratios=(5, 2))
        x, y = _columns(with_accuracy, "step", "accuracy")
        accuracies.plot(x, 100 * y, "o-", color=ACCURACY)
        accuracies.set_ylabel("accuracy")
        accuracies.yaxis.set_major_formatter(PercentFormatter())
    else:
        losses = accuracies = figure.subplots()
    _draw_training(losses, steps)
    if evaluations:
        _draw_evaluations(losses, evaluations)
    losses.set_ylabel("loss")
    losses.legend(loc="upper right")
    accuracies.set_xlabel("step")
    last = max([entry["step"] for entry in (*steps[-1:], *evaluations[-1:])] + [1])
    accuracies.set_xlim(-0.02 * last, 1.02 * last)
    accuracies.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=(1, 2, 5, 10)))
    figure.align_ylabels()
    for axes in figure.axes:
        axes.grid(alpha=0.3)
    path = folder / "loss.png"
    with writing(path):
        figure.savefig(path)
    return path


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


def _draw_evaluations(axes: "Axes", evaluations: list[dict[str, Any]]) -> None:
    x, loss = _columns(evaluations, "step", "loss")
    axes.plot(x, loss, "o-", color=EVALUATION, label="evaluation")
    best = loss.argmin()
    label = f"best: {loss[best]:.4f} at step {x[best]:.0f}"
    axes.plot(x[best], loss[best], "*", color=EVALUATION, markeredgecolor="black", markersize=15, label=label)


def _title(folder: Path) -> str:
    """Return the folder's name, with that of the model if the training command has left its options there."""
    name, options = folder.resolve().name, folder / "options.json"
    if not options.exists():
        return name
    model_path = json.loads(options.read_text())["model_path"]
    return f"{name} ({Path(model_path).resolve().name})"


def _columns(entries: list[dict[str, Any]], *names: str) -> list[NDArray[np.float64]]:
    return [np.array([entry[name] for entry in entries], dtype=np.float64) for name in names]

"""The picture shows the run's numbers, however few there are."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.observers.plots import plot_losses, running_mean

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """The figures that were saved."""
    saved: list[Figure] = []
    savefig = Figure.savefig

    def save(figure: Figure, path: Path) -> None:
        saved.append(figure)
        savefig(figure, path)

    monkeypatch.setattr(Figure, "savefig", save)
    yield saved


def write(
    folder: Path, steps: int, evaluations: list[int], accuracy: bool = False, factor: float = 1.0
) -> Path:
    """The files of a run whose step s has losses 0.5/s and 1.5/s, and evaluations 2 - 1/(s + 1)."""
    folder.mkdir(exist_ok=True)
    metrics = [
        {"step": step, "loss_plus": factor * 0.5 / step, "loss_minus": factor * 1.5 / step, "seconds": None}
        for step in range(1, steps + 1)
    ]
    evals = [
        {"step": step, "loss": 2 - 1 / (step + 1)} | ({"accuracy": 1 / (step + 1)} if accuracy else {})
        for step in evaluations
    ]
    for name, entries in (("metrics", metrics), ("evals", evals)):
        if entries:
            (folder / f"{name}.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


@pytest.mark.parametrize("accuracy", [False, True])
@pytest.mark.parametrize(
    ("steps", "evaluations", "window"),
    [
        (0, [], None),
        (0, [0], None),
        (1, [], None),
        (1, [0, 1], None),
        (12, [0, 6, 12], 3),
        (100, [], 20),
        (2000, [0, 1000, 2000], 40),
    ],
)
def test_what_is_drawn(
    tmp_path: Path,
    figures: list[Figure],
    steps: int,
    evaluations: list[int],
    window: int | None,
    accuracy: bool,
) -> None:
    path = plot_losses(write(tmp_path, steps, evaluations, accuracy))
    assert path == tmp_path / "loss.png"
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", (1000, 600))
    axes = figures[0].axes
    drawn = {line.get_label(): line.get_xydata() for line in axes[0].lines}
    x = np.arange(1, steps + 1)
    expected = {"training batches": np.array([x, 1 / x]).T}
    if window:
        middles = x[: steps - window + 1] + (window - 1) / 2
        means = [np.mean(1 / x[start : start + window]) for start in range(steps - window + 1)]
        expected[f"mean of {window} steps"] = np.array([middles, means]).T
    if evaluations:
        expected["evaluation"] = np.array([(step, 2 - 1 / (step + 1)) for step in evaluations])
        expected["best: 1.0000 at step 0"] = np.array([(0, 1.0)])
    assert drawn.keys() == expected.keys()
    for label, points in expected.items():
        np.testing.assert_allclose(drawn[label], points, rtol=1e-9, err_msg=label)
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == list(expected)
    if steps == 1:
        assert axes[0].lines[0].get_marker() == "."
    assert [axis.get_ylabel() for axis in axes] == (
        ["loss", "accuracy"] if accuracy and evaluations else ["loss"]
    )
    assert axes[-1].get_xlabel() == "step"
    if accuracy and evaluations:
        points = np.array([(step, 100 / (step + 1)) for step in evaluations])
        np.testing.assert_allclose(axes[1].lines[0].get_xydata(), points, rtol=1e-9)
    low, high = axes[-1].get_xlim()
    assert low < 0 and high > max([1, steps, *evaluations])


def test_the_picture_changes_with_the_numbers(tmp_path: Path) -> None:
    """Also where they have changed in the last step alone."""
    pictures = []
    for steps, factor in ((50, 1.0), (50, 1.5), (51, 1.0), (50, 1.0)):
        with Image.open(plot_losses(write(tmp_path, steps, [0], factor=factor))) as image:
            pictures.append(image.tobytes())
    assert pictures[0] == pictures[3]
    assert len(set(pictures)) == 3


def test_the_title(tmp_path: Path, figures: list[Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    """The names as they are, although half of a formula is in them."""
    folder = write(tmp_path / "lr_$1e-3 \\frac{$", 3, [])
    plot_losses(folder)
    (folder / "options.json").write_text(json.dumps({"model_path": "facebook/opt-13b", "seed": 1}))
    plot_losses(folder)
    monkeypatch.chdir(folder)
    plot_losses(Path("."))
    titles = [figure.get_suptitle() for figure in figures]
    assert titles == ["lr_$1e-3 \\frac{$", *["lr_$1e-3 \\frac{$ (opt-13b)"] * 2]


def test_a_run_that_goes_on_may_be_writing_a_line(tmp_path: Path, figures: list[Figure]) -> None:
    write(tmp_path, 3, [0])
    for name in ("metrics", "evals"):
        with (tmp_path / f"{name}.jsonl").open("a") as file:
            file.write('{"step": 4, "lo')
    plot_losses(tmp_path)
    assert [len(line.get_xydata()) for line in figures[0].axes[0].lines] == [3, 1, 1]


@pytest.mark.parametrize(
    "line", ['{"step": 2, "lo', "[2, 0.5]", '{"step": 2, "loss_minus": 1.0}', "\x00\x00"]
)
def test_a_damaged_file(tmp_path: Path, line: str) -> None:
    path = write(tmp_path, 1, []) / "metrics.jsonl"
    path.write_text(path.read_text() + line + "\n" + path.read_text())
    with pytest.raises(UserError) as raised:
        plot_losses(tmp_path)
    assert str(raised.value) == f"{path}, line 2: damaged: go on with the run by --resume, which mends it"


def test_a_picture_that_cannot_be_written(tmp_path: Path) -> None:
    (write(tmp_path, 1, []) / "loss.png").mkdir()
    with pytest.raises(UserError, match=r"^cannot write .*/loss\.png: Is a directory: mend that, or choose"):
        plot_losses(tmp_path)


def test_running_mean() -> None:
    values = np.array([1.0, 3.0, 8.0, 0.0])
    assert running_mean(values, 1).tolist() == [1.0, 3.0, 8.0, 0.0]
    assert running_mean(values, 3).tolist() == [4.0, 11 / 3]
    assert running_mean(values, 4).tolist() == [3.0]


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path: Path) -> None:
    """And pyplot, with the state that all of a process shares, never."""
    program = f"""
import sys
from pathlib import Path
from sglang_mezo_plugin.runs.observers import plots, progress, tensorboard
assert not {{"torch", "sglang", "matplotlib", "tensorboard"}} & set(sys.modules)
plots.plot_losses(Path({str(write(tmp_path, 2, [0]))!r}))
assert not {{"torch", "sglang", "matplotlib.pyplot"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], check=True)

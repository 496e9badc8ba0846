"""What a run shows: a bar on a terminal, lines elsewhere, and nothing if that is asked for."""

import json
import re
import sys
from collections.abc import Iterable
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sglang_mezo_plugin.runs.folder import step_metrics
from sglang_mezo_plugin.runs.journal import StepRecord
from sglang_mezo_plugin.runs.observers.progress import Progress


class Shown:
    """A Progress whose clock stands still unless it is moved, and what it has written.

    Step s has losses 1/s at + and 3/s at -, projected gradient -12.3456 s, and learning rate 1e-6 / s.
    """

    def __init__(self, folder: Path, terminal: bool = False, quiet: bool = False, width: int = 100) -> None:
        self.file = StringIO()
        self.now = 1000.0
        console = Console(file=self.file, force_terminal=terminal, width=width, _environ={})
        self.progress = Progress(folder, quiet, console, lambda: self.now)

    def steps(self, steps: Iterable[int], seconds: float) -> None:
        for step in steps:
            self.now += seconds
            record = StepRecord(step, (step,), (1 / step,), (3 / step,), (-12.3456 * step,), 1e-6 / step, "")
            self.progress.on_step(record, step_metrics(record, seconds))

    def screen(self) -> list[str]:
        """What stands on a terminal after all that was written."""
        lines, row = [""], 0
        for token in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", self.file.getvalue()):
            if token == "\n":
                row += 1
                lines += [""] * (row == len(lines))
            elif token == "\x1b[1A":
                row -= 1
            elif token == "\x1b[2K":
                lines[row] = ""
            elif token[0] not in "\x1b\r":
                lines[row] += token
        return [line.rstrip() for line in lines if line]


def test_lines_are_the_metrics(tmp_path: Path) -> None:
    """Losses 2/s: their mean is 2, then (2 + 1) / 2, ...; from step 21 on, the first ones are forgotten."""
    shown = Shown(tmp_path)
    shown.progress.on_start(1, 40)
    shown.progress.on_eval(0, {"loss": 0.73125, "accuracy": 0.6119})
    shown.steps([1], 4.0)
    shown.steps([2, 3], 10.0)
    shown.progress.on_eval(3, {"loss": 0.73126})
    shown.now += 80
    shown.steps([4], 20.0)
    shown.steps(range(5, 41), 0.25)
    shown.progress.on_eval(40, {"loss": 0.5})
    shown.progress.on_end("finished")
    forgetful = sum(2 / step for step in range(21, 41)) / 20
    assert shown.file.getvalue().splitlines() == [
        "step 0  eval loss 0.7312  accuracy 61.2%  best",
        "step 1/40  loss 2.0000  grad -12.3  lr 1e-06  0.25 steps/s",
        "step 2/40  loss 1.5000  grad -24.7  lr 5e-07  0.143 steps/s  0:06:20 left",
        "step 3/40  loss 1.2222  grad -37  lr 3.33e-07  0.125 steps/s  0:06:10 left",
        "step 3  eval loss 0.7313",
        "step 4/40  loss 1.0417  grad -49.4  lr 2.5e-07  11 s/step  0:24:00 left",
        f"step 40/40  loss {forgetful:.4f}  grad -494  lr 2.5e-08  4 steps/s  0:00:00 left",
        "step 40  eval loss 0.5000  best",
    ]


@pytest.mark.parametrize(
    ("first", "last", "total", "seconds", "printed"),
    [
        (1, 50, 50, 10.0, range(1, 51)),
        (1, 100, 100, 4.0, [*range(1, 100, 3), 100]),  # 10 seconds are rarer: 3 steps
        (1, 1000, 1000, 2.0, [*range(1, 1000, 10), 1000]),  # 1% is rarer
        (1, 1010, 1010, 100.0, [*range(1, 1010, 11), 1010]),
        (501, 1000, 1000, 2.0, [*range(501, 1000, 10), 1000]),
        (1, 17, 1000, 2.0, [1, 11, 17]),  # stopped
        (1, 1, 1, 0.5, [1]),
        (5, 4, 4, 1.0, []),  # resumed, with nothing left to do
    ],
)
def test_lines_are_few(
    tmp_path: Path, first: int, last: int, total: int, seconds: float, printed: Iterable[int]
) -> None:
    shown = Shown(tmp_path)
    shown.progress.on_start(first, total)
    shown.steps(range(first, last + 1), seconds)
    shown.progress.on_end("finished" if last == total else "stopped")
    written = re.findall(rf"^step (\d+)/{total}  ", shown.file.getvalue(), re.MULTILINE)
    assert [int(step) for step in written] == list(printed)


def test_a_line_is_out_before_the_run_ends(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as file:
        progress = Progress(tmp_path, console=Console(file=file))
        progress.on_start(1, 1000)
        progress.on_eval(0, {"loss": 1.0})
        assert (tmp_path / "log").read_text() == "step 0  eval loss 1.0000  best\n"


def test_the_bar(tmp_path: Path) -> None:
    shown = Shown(tmp_path, terminal=True)
    shown.progress.on_start(11, 40)
    assert re.fullmatch(r"[━╺]+ 10/40", shown.screen()[-1])
    shown.steps([11], 1.0)
    shown.steps([12], 0.125)
    assert "grad -136 " in shown.screen()[-1] and " 11/40 " in shown.screen()[-1]
    shown.steps([13], 0.125)
    loss = (2 / 11 + 2 / 12 + 2 / 13) / 3
    bar = f"━ 13/40 loss {loss:.4f} grad -160 lr 7.69e-08 2.4 steps/s 0:00:03 left"
    assert shown.screen()[-1].endswith(bar)
    shown.progress.on_eval(13, {"loss": 0.5, "accuracy": 1.0})
    evaluation = "step 13  eval loss 0.5000  accuracy 100.0%  best"
    assert shown.screen()[0] == evaluation and shown.screen()[1].endswith(bar)
    shown.steps(range(14, 41), 0.001)
    shown.progress.on_eval(40, {"loss": 0.75})
    shown.progress.on_end("finished")
    *lines, bar = shown.screen()
    assert lines == [evaluation, "step 40  eval loss 0.7500"]
    assert re.fullmatch(r"━+ 40/40 loss .* 0:00:00 left", bar) and len(bar) == 100
    written = shown.file.getvalue()
    assert "━ 20/40" not in written, "drawn more often than five times a second"
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1


def test_a_stopped_bar_shows_the_last_step_and_gives_the_cursor_back(tmp_path: Path) -> None:
    shown = Shown(tmp_path, terminal=True, width=50)
    shown.progress.on_start(1, 20_000)
    shown.steps(range(1, 4), 0.01)
    shown.progress.on_end("failed")
    assert shown.file.getvalue().rindex("\x1b[?25h") > shown.file.getvalue().rindex("\x1b[?25l")
    assert len(shown.screen()) == 1
    assert shown.screen()[0].startswith("3/20000 loss 1.2222 grad -37 lr 3.33e-07 100")


def test_others_write_above_the_bar_and_results_go_to_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Shown(tmp_path, terminal=True)
    shown.progress.on_start(1, 2)
    print("a warning", file=sys.stderr)
    print("a result")
    shown.progress.on_end("stopped")
    assert [line.lstrip("━╺") for line in shown.screen()] == ["a warning", " 0/2"]
    assert tuple(capsys.readouterr()) == ("a result\n", "")


@pytest.mark.parametrize("quiet", [False, True])
def test_stderr_that_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress = Progress(tmp_path, quiet)
    progress.on_start(1, 9)
    progress.on_eval(0, {"loss": 3.0, "accuracy": 0.0})
    progress.on_end("stopped")
    expected = "" if quiet else "step 0  eval loss 3.0000  accuracy 0.0%  best\n"
    assert tuple(capsys.readouterr()) == ("", expected)


def test_quiet_on_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = Shown(tmp_path, terminal=True, quiet=True)
    shown.progress.on_start(1, 9)
    shown.steps(range(1, 10), 1.0)
    shown.progress.on_eval(9, {"loss": 3.0})
    print("a warning", file=sys.stderr)
    shown.progress.on_end("finished")
    assert shown.file.getvalue() == ""
    assert tuple(capsys.readouterr()) == ("", "a warning\n")


def test_the_best_counts_what_was_before_a_resume(tmp_path: Path) -> None:
    earlier = [{"step": 0, "loss": 0.5}, {"step": 4, "loss": 0.7}]
    (tmp_path / "evals.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in earlier))
    shown = Shown(tmp_path)
    shown.progress.on_start(5, 20)
    for step, loss in enumerate((0.6, 0.5, 0.4, 0.4, 0.3), start=5):
        shown.progress.on_eval(step, {"loss": loss})
    assert re.findall(r"step (\d+) .* best$", shown.file.getvalue(), re.MULTILINE) == ["7", "9"]

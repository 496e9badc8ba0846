"""Runs that are asked to stop: the step is finished, its result saved, and the run can go on."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import Commands, command
from whole_runs import METHODS, STEPS, Run, check_same_end, lines, tree, wait_for_step

from sglang_mezo_plugin.models.adapter import Adapter


@pytest.mark.parametrize(
    ("method", "number"),
    [("lora-adam", signal.SIGTERM), ("lora", signal.SIGINT), ("full", signal.SIGTERM)],
    ids=str,
)
def test_a_signal_stops_the_run_after_the_step(
    method: str,
    number: signal.Signals,
    commands: Commands,
    training: list[Any],
    whole_run: Callable[..., Run],
    tmp_path: Path,
) -> None:
    whole, folder = whole_run(method), tmp_path / "run"
    words = [*training, *METHODS[method], "--steps", STEPS, "--output-dir", folder]
    child = commands.start_command("train", words)
    wait_for_step(2, folder, child)
    child.signal(number)
    outcome = child.wait()
    assert outcome.exit_code == 0, outcome.stderr
    summary, step = json.loads((folder / "summary.json").read_text()), lines(folder) - 1
    assert (summary["status"], summary["last_step"]) == ("stopped", step)
    assert 2 <= step < STEPS
    assert f"stopped at step {step}" in outcome.stdout
    assert "the same command with --resume" in outcome.stdout
    commands.succeed("export", "--run", whole.folder, "--step", step, "--output-dir", tmp_path / "then")
    assert tree(Path(summary["output"])) == tree(tmp_path / "then")

    commands.succeed("train", *words, "--resume")
    check_same_end(folder, whole.folder)


def test_a_signal_does_not_disturb_the_writing_of_the_result(
    commands: Commands, training: list[Any], whole_run: Callable[..., Run], tmp_path: Path
) -> None:
    words = [*training, *METHODS["lora"], "--steps", STEPS, "--output-dir", tmp_path]
    outcome = commands.start(terminated_while_saving, [str(word) for word in words]).wait()
    assert outcome.exit_code == 0, outcome.stderr
    assert "SIGTERM to itself" in outcome.stdout
    check_same_end(tmp_path, whole_run("lora").folder)


def terminated_while_saving(words: list[str]) -> None:
    """Train, with a SIGTERM when the result is about to be written."""
    save = Adapter.save

    def interrupted(adapter: Adapter, folder: Path) -> None:
        if folder.name == "adapter":
            print("SIGTERM to itself")
            os.kill(os.getpid(), signal.SIGTERM)
        save(adapter, folder)

    Adapter.save = interrupted
    command("train", words)

"""Runs that are killed (SIGKILL) at random moments end, resumed, with the bytes of a run that was not."""

import json
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import Child, Commands, wait_for
from whole_runs import METHODS, STEPS, Run, check_same_end, lines, rows, tree

# Of each kind of run; at other moments where there are more.
SOME, MORE = 2, 3


@pytest.mark.parametrize("count", [SOME, pytest.param(MORE, marks=pytest.mark.long)])
@pytest.mark.parametrize("method", METHODS)
def test_killed_runs_end_with_the_same_bytes(
    method: str,
    count: int,
    commands: Commands,
    training: list[Any],
    whole_run: Callable[..., Run],
    best_adapters: Callable[[str], set[bytes]],
    tmp_path: Path,
) -> None:
    whole, draw, kills = whole_run(method), random.Random(f"{method} {count}"), 0
    best = best_adapters(method)
    words = [*training, *METHODS[method], "--steps", STEPS, "--resume", "--output-dir"]
    while kills < count:
        folder = tmp_path / f"after-{kills}-kills"
        # As long as it takes: a kill may come too late, and then the run is over.
        while kills < count:
            child = commands.start_command("train", [*words, folder])
            # The last kill is for the last evaluation and what is written after it.
            first_line = lines(folder) if kills < count - 1 else STEPS + 1
            wait_for_random_moment(draw, max(1, first_line), folder, child, whole)
            child.signal(signal.SIGKILL)
            outcome = child.wait()
            if outcome.exit_code == 0:
                break
            assert outcome.exit_code == -signal.SIGKILL, outcome.stderr
            kills += 1
            check_leftovers(folder, whole, best)
        commands.succeed("train", *words, folder)
        check_same_end(folder, whole.folder)


def wait_for_random_moment(
    draw: random.Random, first_line: int, folder: Path, child: Child, whole: Run
) -> None:
    """Wait until a moment after the journal has so many lines, before the process ends.

    All steps are equally likely; within a step it is reckoned by how long the step took in the whole run.
    """
    options, start = folder / "options.json", time.time_ns()
    moment = draw.uniform(first_line, STEPS + 2)
    wait_for(lambda: options.exists() and options.stat().st_mtime_ns > start, child)
    wait_for(lambda: lines(folder) >= int(moment), child)
    before, after = whole.moments[int(moment) : int(moment) + 2]
    time.sleep((moment % 1) * (after - before))


def check_leftovers(folder: Path, whole: Run, best_adapters: set[bytes]) -> None:
    """Check what a kill has left: what looks whole is whole, and true."""
    for name in ("journal.jsonl", "evals.jsonl"):
        if (folder / name).exists():
            assert (whole.folder / name).read_bytes().startswith((folder / name).read_bytes())
    for name in ("adapter", "model"):
        if (folder / name).exists():
            assert tree(folder / name) == tree(whole.folder / name)
            assert lines(folder) == STEPS + 1
    if (best := folder / "best").exists():
        assert tree(best).keys() == tree(whole.folder / "best").keys()
        assert (best / "adapter_model.safetensors").read_bytes() in best_adapters
    if (summary := folder / "summary.json").exists():
        told = json.loads(summary.read_text())
        assert (told["status"], told["last_step"]) == ("finished", STEPS)
        assert Path(told["output"]).exists()
        assert rows(folder / "evals.jsonl")[-1]["step"] == STEPS

"""Runs on several ranks: the same as on one, resumed to the bit, and none left when one of them dies."""

import signal
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import Commands, command
from ranked_runs import LAYOUTS, in_environment, records_of, size_of, start_ranks, train_on_ranks, workers_of
from whole_runs import METHODS, check_same_end, rows, tree, wait_for_step

STEPS = 8
EXACT, TOLERANCE = 0.0, 1e-5
FULL = METHODS["full"]
CASES: dict[str, tuple[str, list[Any], float]] = {
    # Each replica scores whole pairs, in forwards of the same shape as one rank's.
    "pairs": ("dp", [*FULL, "--num-pairs", 2], EXACT),
    "uneven pairs": ("dp", METHODS["lora-adam"], TOLERANCE),
    "signs": ("dp", FULL, TOLERANCE),
    "signs of an adapter": ("dp", METHODS["lora"], TOLERANCE),
    "shards": ("tp", FULL, TOLERANCE),
    "shards of an adapter": ("tp", METHODS["lora-adam"], TOLERANCE),
    "both": ("dp-tp", [*METHODS["full-bfloat16"], "--num-pairs", 3], 5e-2),
}


# The others are crossings of these.
SOME = ("pairs", "signs of an adapter", "shards")


@pytest.mark.parametrize(
    "case", [case if case in SOME else pytest.param(case, marks=pytest.mark.long) for case in CASES]
)
def test_a_run_on_ranks_is_the_run_on_one(
    case: str, commands: Commands, training: list[Any], tmp_path: Path
) -> None:
    layout, method, tolerance = CASES[case]
    words = [*training, *method, "--steps", STEPS, "--output-dir"]
    one, many = tmp_path / "one", tmp_path / "many"
    commands.succeed("train", *words, one)
    train_on_ranks(commands, size_of(LAYOUTS[layout]), [*words, many, *LAYOUTS[layout]])
    found, expected = records_of(many), records_of(one)
    assert len(found) == STEPS
    for record, other in zip(found, expected, strict=True):
        assert (record.seeds, record.batch) == (other.seeds, other.batch)
        for name in ("loss_plus", "loss_minus"):
            assert getattr(record, name) == pytest.approx(getattr(other, name), rel=0, abs=tolerance)
    for row, other in zip(rows(many / "evals.jsonl"), rows(one / "evals.jsonl"), strict=True):
        assert row == pytest.approx(other, abs=tolerance)
    # The weights in memory, from all shards, are those of the journal.
    commands.succeed("export", "--run", many, "--output-dir", tmp_path / "exported")
    (saved,) = (path for name in ("adapter", "model") if (path := many / name).exists())
    assert tree(saved) == tree(tmp_path / "exported")
    if tolerance == EXACT:
        assert tree(saved) == tree(one / saved.name)


def test_a_rank_0_that_is_killed_takes_the_others_along(
    commands: Commands, training: list[Any], tmp_path: Path
) -> None:
    words = [*training, *METHODS["lora-adam"], *LAYOUTS["dp"], "--steps", 30, "--output-dir"]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    train_on_ranks(commands, 2, [*words, whole])
    first, other = start_ranks(commands, 2, [*words, folder])
    wait_for_step(5, folder, first)
    first.signal(signal.SIGKILL)
    other.process.join(20)
    exit_code = other.process.exitcode
    other.signal(signal.SIGKILL)  # if it is still there
    assert exit_code == 1
    assert not any(word in other.wait().stderr for word in ("error", "Traceback"))
    train_on_ranks(commands, 2, [*words, folder, "--resume"])
    check_same_end(folder, whole)


@pytest.mark.parametrize("layout", [pytest.param("dp", marks=pytest.mark.long), "tp"])
def test_a_rank_that_is_killed_ends_the_run(
    layout: str, commands: Commands, training: list[Any], tmp_path: Path
) -> None:
    """Here rank 0 starts the other one, which takes a while."""
    words = [*training, *METHODS["full"], *LAYOUTS[layout], "--output-dir", tmp_path, "--steps"]
    child = commands.start_command("train", [*words, 100_000])
    wait_for_step(3, tmp_path, child)
    (worker,) = workers_of(child)
    worker.kill()
    outcome = child.wait()
    assert outcome.exit_code == 2
    *_, line = outcome.stderr.splitlines()
    assert line == "error: rank 1 is gone (exit code -9): start the command again, with --resume"
    assert "Traceback" not in outcome.stderr
    steps = len(records_of(tmp_path))
    assert steps >= 3
    train_on_ranks(commands, 2, [*words, steps + 2, "--resume"])
    assert len(records_of(tmp_path)) == steps + 2


def test_ranks_that_rank_0_has_started_end_with_it(
    commands: Commands, training: list[Any], tmp_path: Path
) -> None:
    words = [*training, *METHODS["lora"], *LAYOUTS["dp"], "--output-dir", tmp_path, "--steps", 100_000]
    child = commands.start_command("train", words)
    wait_for_step(3, tmp_path, child)
    workers = workers_of(child)
    assert len(workers) == 1
    child.signal(signal.SIGKILL)
    assert child.wait().exit_code == -signal.SIGKILL
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not alive


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)], ids=str
)
def test_a_signal_to_all_ranks_stops_the_run_after_the_step(
    number: signal.Signals, commands: Commands, training: list[Any], tmp_path: Path
) -> None:
    words = [*training, *METHODS["lora"], *LAYOUTS["dp"], "--output-dir", tmp_path, "--steps", 100_000]
    children = start_ranks(commands, 2, words)
    wait_for_step(3, tmp_path, children[0])
    for child in children:
        child.signal(number)
    outcomes = [child.wait() for child in children]
    assert [outcome.exit_code for outcome in outcomes] == [0, 0], outcomes
    assert "stopped at step" in outcomes[0].stdout


@pytest.mark.parametrize(
    ("layout", "variables", "message"),
    [
        (
            "dp",
            {"WORLD_SIZE": 3},
            "WORLD_SIZE is 3, but --tp-size times --dp-size is 2: let the launcher start 2",
        ),
        ("tp", {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 1}, "processes are on several hosts: start them on one"),
    ],
)
def test_other_launches_are_refused(
    layout: str,
    variables: dict[str, int],
    message: str,
    commands: Commands,
    training: list[Any],
    tmp_path: Path,
) -> None:
    words = [*training, *METHODS["full"], *LAYOUTS[layout], "--output-dir", tmp_path / "run"]
    words = [str(word) for word in words]
    outcome = commands.start(in_environment, {"RANK": 0, **variables}, command, "train", words).wait()
    assert outcome.exit_code == 2
    (line,) = outcome.stderr.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()

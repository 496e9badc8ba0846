"""How runs go on, and how they end when they cannot."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import Commands
from references import token_ids
from whole_runs import METHODS, STEPS, Run, check_same_end, rows, tree, wait_for_step

from sglang_mezo_plugin.runs.journal import read_journal


@pytest.mark.parametrize("method", METHODS)
def test_steps_may_be_raised(
    method: str, commands: Commands, training: list[Any], whole_run: Callable[..., Run], tmp_path: Path
) -> None:
    words = [*training, *METHODS[method], "--output-dir", tmp_path]
    commands.succeed("train", *words, "--steps", 12)
    commands.succeed("train", *words, "--steps", STEPS, "--resume")
    check_same_end(tmp_path, whole_run(method).folder)


def test_a_finished_run_stays_as_it_is(
    commands: Commands, training: list[Any], whole_run: Callable[..., Run], tmp_path: Path
) -> None:
    words = [*training, *METHODS["full"], "--steps", STEPS, "--output-dir", tmp_path, "--resume"]
    for _ in range(2):
        commands.succeed("train", *words)
        check_same_end(tmp_path, whole_run("full").folder)


def test_two_processes_do_not_write_one_run(
    commands: Commands, training: list[Any], whole_run: Callable[..., Run], tmp_path: Path
) -> None:
    words = [*training, *METHODS["lora"], "--output-dir", tmp_path, "--resume", "--steps"]
    first = commands.start_command("train", [*words, 100_000])
    wait_for_step(1, tmp_path, first)
    second = commands("train", *words, 100_000)
    first.process.terminate()
    assert second.exit_code == 2
    message = f"error: another process is writing {tmp_path / 'journal.jsonl'}: wait until it ends, or choose"
    assert message in second.stderr
    assert first.wait().exit_code == 0
    found, expected = (
        (folder / "journal.jsonl").read_bytes().splitlines()
        for folder in (tmp_path, whole_run("lora").folder)
    )
    common = min(len(found), len(expected))
    assert common > 3
    assert found[:common] == expected[:common]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(("option", "step"), [("--eps", 1), ("--learning-rate", 2)])
def test_a_loss_that_is_not_finite_ends_the_run(
    option: str, step: int, method: str, commands: Commands, training: list[Any], tmp_path: Path
) -> None:
    words = [*training, *METHODS[method], "--weight-decay", 0, option, 1e30, "--steps", 9]
    words += ["--output-dir", tmp_path]
    outcome = commands("train", *words)
    assert outcome.exit_code == 2
    assert "Traceback" not in outcome.stderr
    (message,) = (line for line in outcome.stderr.splitlines() if line.startswith("error: "))
    assert outcome.stderr.endswith(message + "\n")
    assert message.startswith(f"error: step {step}: losses ")
    assert "(batch " in message and "direction seed " in message
    assert "pass a smaller --eps or --learning-rate" in message
    _, records = read_journal(tmp_path / "journal.jsonl")
    assert len(records) == step - 1
    assert not any((tmp_path / name).exists() for name in ("summary.json", "adapter", "model"))
    before = tree(tmp_path)
    again = commands("train", *words, "--resume")
    assert again.exit_code == 2 and message in again.stderr
    after = tree(tmp_path)
    assert after["journal.jsonl"] == before["journal.jsonl"]


def test_cache_hit_rate_is_that_of_the_tokens(
    commands: Commands, training: list[Any], opt: Path, train_file: Path, tmp_path: Path
) -> None:
    """Each batch is the whole file: what its sequences begin with alike is computed once."""
    asked = rows(train_file)
    words = [*training, "--eval-file", "", *METHODS["lora"], "--num-pairs", 3, "--batch-size", len(asked)]
    commands.succeed("train", *words, "--steps", 2, "--output-dir", tmp_path)
    sequences = [before + after[:-1] for options in token_ids(opt, asked) for before, after in options]
    prefixes = {tuple(tokens[:end]) for tokens in sequences for end in range(1, len(tokens) + 1)}
    told = json.loads((tmp_path / "summary.json").read_text())
    assert told["cache_hit_rate"] == pytest.approx(1 - len(prefixes) / sum(map(len, sequences)), abs=1e-12)
    assert told["cache_hit_rate"] > 0.5
    assert told["first_evaluation"] is told["last_evaluation"] is told["best"] is None


def test_relative_paths(opt: Path, train_file: Path, commands: Commands, tmp_path: Path) -> None:
    """The real command; what it leaves can be used from any other folder."""
    (tmp_path / "my model").symlink_to(opt)
    (tmp_path / "train.jsonl").symlink_to(train_file)
    command = [sys.executable, "-m", "sglang_mezo_plugin.train"]
    words = "--model-path 'my model' --train-file train.jsonl --mode lora --steps 3 --output-dir 'my run'"
    ran = subprocess.run(
        [*command, *shlex.split(words), "--device", "cpu"], cwd=tmp_path, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr.decode()
    run = tmp_path / "my run"
    assert "step 3/3" in ran.stderr.decode()
    assert f"finished at step 3; the run is in {run.name}" in ran.stdout.decode()
    assert f"python -m sglang_mezo_plugin.train {words}" in (run / "README.md").read_text()
    assert len(rows(run / "metrics.jsonl")) == 3
    serve = shlex.split(json.loads((run / "summary.json").read_text())["serve"])
    assert str(opt.resolve()) in serve and f"mezo={run / 'adapter'}" in serve
    commands.succeed("export", "--run", run, "--output-dir", tmp_path / "exported")
    name = "adapter_model.safetensors"
    assert (tmp_path / "exported" / name).read_bytes() == (run / "adapter" / name).read_bytes()

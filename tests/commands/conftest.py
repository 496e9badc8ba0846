import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from children import Commands
from small_runs import saved_model, verdicts, write_rows
from whole_runs import METHODS, Run, make_run, rows

sys.path.append(str(Path(__file__).parents[1] / "upstream"))  # `release`


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Commands:
    return Commands(tmp_path_factory.mktemp("commands"))


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def opt(models: Path) -> Path:
    return saved_model("opt", models)


@pytest.fixture(scope="session")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", verdicts(12, seed=0))


@pytest.fixture(scope="session")
def eval_file(train_file: Path) -> Path:
    return write_rows(train_file.with_name("eval.jsonl"), verdicts(6, seed=1))


@pytest.fixture(scope="session")
def training(opt: Path, train_file: Path, eval_file: Path) -> list[Any]:
    """Words of a training, but for --mode, --steps and --output-dir."""
    return [
        *("--model-path", opt, "--train-file", train_file, "--eval-file", eval_file),
        *("--device", "cpu", "--batch-size", 2, "--eval-steps", 4, "--seed", 5, "--quiet"),
    ]


@pytest.fixture(scope="session")
def whole_run(
    commands: Commands, training: list[Any], models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Run]:
    """Makes a run of a model, by default "opt", by one of `METHODS`; each of them once."""
    folder = tmp_path_factory.mktemp("whole")

    @cache
    def run(method: str, model: str) -> Run:
        words = [*training, "--model-path", saved_model(model, models), *METHODS[method]]
        return make_run(commands, words, folder / model / method)

    return lambda method, model="opt": run(method, model)


@pytest.fixture(scope="session")
def best_adapters(
    commands: Commands, whole_run: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], set[bytes]]:
    """The bytes that OUT/best may have had at any time of a whole run; none for full-parameter runs."""

    def exported(method: str) -> set[bytes]:
        run, lowest, found = whole_run(method).folder, float("inf"), set()
        for evaluation in rows(run / "evals.jsonl") if (run / "best").exists() else []:
            if evaluation["loss"] < lowest:
                lowest = evaluation["loss"]
                folder = tmp_path_factory.mktemp("best") / "adapter"
                words = ["--run", run, "--output-dir", folder, "--step", evaluation["step"]]
                commands.succeed("export", *words)
                found.add((folder / "adapter_model.safetensors").read_bytes())
        return found

    return cache(exported)

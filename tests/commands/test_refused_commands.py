"""Commands that are refused: exit code 2, one line with the thing and the cure, and nothing is changed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from children import Commands, command
from refusals import DATA, EVALUATION, FOLDER, METHOD, MODEL, OTHER_RUN, write_faults
from whole_runs import METHODS, STEPS, Run, tree


def unpatch() -> None:
    from sglang_mezo_plugin.patching import series

    series.state = lambda target: "stock"


def downgrade() -> None:
    from sglang_mezo_plugin.patching import targets

    targets._version = lambda package: ("0.5.22", package / "_version.py")


SGLANG = {
    unpatch: "/sglang is not patched: python -m sglang_mezo_plugin.patch apply",
    downgrade: "/sglang/_version.py), the patches are for 0.5.23: pip install sglang==0.5.23",
}


def guarded(name: str, words: list[str], prepare: Callable[[], None] | None) -> None:
    """Run a command that must not come to load a model."""
    from sglang_mezo_plugin.engine import opening

    def open_runner(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("a model is loaded")

    opening.open_runner = open_runner
    if prepare:
        prepare()
    command(name, words)


@pytest.fixture(scope="module")
def faults(opt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    write_faults(folder, opt)
    return folder


@pytest.fixture(scope="module")
def run(whole_run: Callable[..., Run], faults: Path) -> Path:
    """A run that is finished."""
    return Path(shutil.copytree(whole_run("lora").folder, faults / "run"))


@pytest.fixture
def refused(commands: Commands, faults: Path, run: Path) -> Callable[..., None]:
    """Runs a command that must be refused with a message, and must not touch what is there already."""

    def check(
        message: str, name: str, words: list[Any], more: str = "", prepare: Callable[[], None] | None = None
    ) -> None:
        words = [str(word) for word in words] + more.replace("{}", str(faults)).split()
        before = tree(faults)
        outcome = commands.start(guarded, name, words, prepare).wait()
        assert outcome.exit_code == 2, outcome.stderr
        (line,) = (line for line in outcome.stderr.splitlines() if not line.endswith("starting SGLang ..."))
        assert line.startswith("error: ")
        assert message.replace("{}", str(faults)) in line
        assert outcome.stdout == ""
        assert tree(faults) == before

    return check


@pytest.fixture
def resumption(training: list[Any], run: Path) -> list[Any]:
    return [*training, *METHODS["lora"], "--steps", STEPS, "--output-dir", run, "--resume"]


@pytest.mark.parametrize("case", DATA | MODEL | METHOD | FOLDER | OTHER_RUN)
def test_train(case: str, refused: Callable[..., None], resumption: list[Any]) -> None:
    words, message = (DATA | MODEL | METHOD | FOLDER | OTHER_RUN)[case]
    refused(message, "train", resumption, words)


def test_train_over_another_run(refused: Callable[..., None], resumption: list[Any], run: Path) -> None:
    message = f"{run} holds another run: choose another --output-dir, or add --resume"
    refused(message, "train", resumption[:-1])
    steps = f"{run / 'journal.jsonl'} holds {STEPS} steps: pass --steps {STEPS} or more"
    refused(steps, "train", resumption, "--steps 39")
    refused("--warmup-steps was 0 and is 2", "train", resumption, "--warmup-steps 2")


@pytest.mark.parametrize("case", DATA | MODEL | EVALUATION)
def test_evaluate(
    case: str, refused: Callable[..., None], opt: Path, train_file: Path, eval_file: Path
) -> None:
    words, message = (DATA | MODEL | EVALUATION)[case]
    model = ["--model-path", opt, "--eval-file", eval_file, "--device", "cpu"]
    if case in DATA:
        words = words.replace("--train-file", "--eval-file")
    refused(message, "evaluate", model, words)


@pytest.mark.parametrize(("prepare", "message"), SGLANG.items())
def test_another_sglang(
    prepare: Callable[[], None],
    message: str,
    refused: Callable[..., None],
    resumption: list[Any],
    opt: Path,
    eval_file: Path,
) -> None:
    refused(message, "train", resumption, prepare=prepare)
    words = ["--model-path", opt, "--eval-file", eval_file, "--device", "cpu"]
    refused(message, "evaluate", words, prepare=prepare)

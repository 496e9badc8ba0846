"""The package's modules import what is below them, and what would be wrong with that is found."""

import runpy
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "rooms.py"
Outcome = tuple[int | str, list[str]]
"""The exit code, or the line for stderr that stands for 1; and the lines printed."""

SOUND = {
    "__init__.py": "",
    "errors.py": "import os",
    "plugin.py": "import sglang",
    "train.py": "from tiny.engine.session import opened\nfrom tiny.tasks import words",
    "noise/__init__.py": "from tiny.noise.plans import Plan",
    "noise/plans.py": "from tiny.noise import cpu\nfrom tiny.errors import UserError",
    "noise/cpu.py": "import numpy",
    "rewards/right.py": "",
    "tasks/__init__.py": "from . import words",
    "tasks/words.py": "import tiny.rewards.right",
    "runs/journal.py": "from .. import errors",
    "training/trainer.py": "from tiny.runs.journal import read",
    "engine/session.py": "import tiny.training.trainer\ndef opened():\n    from sglang.srt import server",
    "serving/loop.py": "import sglang.srt",
}
ONLY_TYPED = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the script with words; return its exit code and lines."""

    def made(*words: str) -> Outcome:
        monkeypatch.setattr("sys.argv", [str(SCRIPT), *words])
        exit_code: int | str = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as error:
            exit_code = error.code
        return exit_code, capsys.readouterr().out.splitlines()

    return made


@pytest.fixture
def with_files(tmp_path: Path, run: Callable[..., Outcome]) -> Callable[[Mapping[str, str]], Outcome]:
    """Check a sound package in which some files are others."""

    def made(files: Mapping[str, str]) -> Outcome:
        for name, text in {**SOUND, **files}.items():
            file = tmp_path / "tiny" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return run(str(tmp_path / "tiny"))

    return made


def test_this_package_is_sound(run: Callable[..., Outcome]) -> None:
    exit_code, lines = run()
    assert exit_code == 0, lines
    assert lines[0].startswith("no import circle among ")


def test_a_folder_without_modules_is_not_sound(run: Callable[..., Outcome], tmp_path: Path) -> None:
    assert run(str(tmp_path)) == (f"{tmp_path} has no modules: name the folder of a package", [])


@pytest.mark.parametrize(
    "files",
    [
        {},
        # No module runs these.
        {"runs/journal.py": ONLY_TYPED + "from tiny.training.trainer import Trainer"},
        {"runs/journal.py": ONLY_TYPED + "from sglang.srt import server"},
        {f"command_{i}.py": "" for i in range(7)},
    ],
    ids=["as it is", "a type from above", "a type of SGLang", "ten in the root"],
)
def test_what_is_sound_passes(
    files: Mapping[str, str], with_files: Callable[[Mapping[str, str]], Outcome]
) -> None:
    assert with_files(files) == (
        0,
        [
            f"no import circle among {len(SOUND | files)} modules",
            "errors < noise < rewards, tasks < runs < training < engine < serving < commands",
        ],
    )


FAULTS = {
    "two import each other": (
        {"noise/cpu.py": "from tiny.noise.plans import Plan"},
        "a circle of imports: tiny.noise.cpu -> tiny.noise.plans -> tiny.noise.cpu",
    ),
    "a circle through a function and a package": (
        {"noise/cpu.py": "def late():\n    from tiny.noise import Plan"},
        "a circle of imports: tiny.noise -> tiny.noise.plans -> tiny.noise.cpu -> tiny.noise",
    ),
    "sglang in training": (
        {"training/loop.py": "import os\nimport sglang.srt as srt"},
        "tiny/training/loop.py:2: sglang is imported outside of engine, serving, plugin.py",
    ),
    "sglang in a command's function": (
        {"export.py": "def main():\n    from sglang import Engine"},
        "tiny/export.py:2: sglang is imported outside of engine, serving, plugin.py",
    ),
    "sglang unless typed": (
        {"export.py": ONLY_TYPED + "pass\nelse:\n    import sglang"},
        "tiny/export.py:5: sglang is imported outside of engine, serving, plugin.py",
    ),
    "errors from noise": (
        {"errors.py": "import tiny.noise.cpu"},
        "tiny/errors.py:1: tiny.noise.cpu is imported, and noise is not below errors",
    ),
    "noise from tasks": (
        {"noise/cpu.py": "from tiny.tasks import words"},
        "tiny/noise/cpu.py:1: tiny.tasks.words is imported, and tasks is not below noise",
    ),
    "rewards from runs": (
        {"rewards/right.py": "from ..runs.journal import read"},
        "tiny/rewards/right.py:1: tiny.runs.journal is imported, and runs is not below rewards",
    ),
    "tasks from models, beside them": (
        {"models/adapter.py": "", "tasks/words.py": "from tiny.models.adapter import Adapter"},
        "tiny/tasks/words.py:1: tiny.models.adapter is imported, and models is not below tasks",
    ),
    "models from training": (
        {"models/adapter.py": "def f():\n    import tiny.training.trainer"},
        "tiny/models/adapter.py:2: tiny.training.trainer is imported, and training is not below models",
    ),
    "runs from a command": (
        {"runs/journal.py": "from tiny.patch import apply", "patch.py": ""},
        "tiny/runs/journal.py:1: tiny.patch is imported, and commands is not below runs",
    ),
    "training from the engine": (
        {"training/loop.py": "from tiny.engine.session import closed, opened"},
        "tiny/training/loop.py:1: tiny.engine.session is imported, and engine is not below training",
    ),
    "a room that nobody knows": (
        {"utils/misc.py": "import tiny.errors"},
        "utils/ has no level: give it one in LEVELS of scripts/rooms.py",
    ),
    "eleven in the root": (
        {f"command_{i}.py": "" for i in range(8)},
        "11 modules are in the package's root, more than 10: give some of them a room",
    ),
}


@pytest.mark.parametrize(("files", "line"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_found(
    files: Mapping[str, str], line: str, with_files: Callable[[Mapping[str, str]], Outcome]
) -> None:
    assert with_files(files) == (1, [line])


def test_each_fault_has_its_line(with_files: Callable[[Mapping[str, str]], Outcome]) -> None:
    files = {"runs/journal.py": "import tiny.train\nimport sglang", "train.py": "import tiny.runs.journal"}
    assert with_files(files) == (
        1,
        [
            "a circle of imports: tiny.runs.journal -> tiny.train -> tiny.runs.journal",
            "tiny/runs/journal.py:2: sglang is imported outside of engine, serving, plugin.py",
            "tiny/runs/journal.py:1: tiny.train is imported, and commands is not below runs",
        ],
    )

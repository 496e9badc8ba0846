"""How a run begins and ends for the user: what its folder must be, and what has come of it."""

import sys
from pathlib import Path

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.folder import Describe, RunFolder
from sglang_mezo_plugin.runs.journal import Header, holds_run, read_journal
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.trainer import RunResult, check_steps


def open_folder(path: str, *, resume: bool, describe: Describe | None = None) -> RunFolder:
    """Return an --output-dir. UserError if another run is there that is not to go on."""
    folder = RunFolder(Path(path), describe)
    if holds_run(folder.journal) and not resume:
        raise UserError(f"{folder.path} holds another run: choose another --output-dir, or add --resume")
    return folder


def check_resumable(folder: RunFolder, header: Header, config: TrainerConfig) -> None:
    """Refuse early what opening the journal, and training on, would refuse once the engine runs."""
    if holds_run(folder.journal):
        known, records = read_journal(folder.journal)
        known.check_same_run(header, folder.path)
        check_steps(folder.journal, records, config)


def report(line: str) -> None:
    """Tell the user what is being done."""
    print(line, file=sys.stderr, flush=True)


def finish(folder: Path, result: RunResult, command: str, picture: str) -> None:
    """Print what has come of a run. command: what serves it. picture: the file that shows it."""
    for name, evaluation in (("before", result.first_evaluation), ("after", result.last_evaluation)):
        if evaluation:
            hidden = {"step", "loss"} if "reward" in evaluation else {"step"}
            numbers = "  ".join(
                f"{key} {value:.4f}" for key, value in evaluation.items() if key not in hidden
            )
            print(f"{name:>7} (step {evaluation['step']}): {numbers}")
    print(f"{result.status} at step {result.last_step}; the run is in {folder}: see its README.md, {picture}")
    if result.status == "stopped":
        print("go on with it: the same command with --resume")
    print(f"serve it:\n  {command}")

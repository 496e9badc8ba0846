"""`metrics.jsonl` and `evals.jsonl`: a JSON object a line, for a step or an evaluation.

Lines are appended as a run goes. A kill may leave a torn last one, or lines of steps that the journal does
not have; both are cut off when the run is resumed.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.journal import writing
from sglang_mezo_plugin.runs.journal_lines import load


def read_entries(path: Path, *names: str) -> list[dict[str, Any]]:
    """Return the JSON objects of a file, without a torn last line: its run may be going on. [] if no file.

    UserError, with file and line, for a line that is no object or lacks one of `names`.
    """
    if not path.exists():
        return []
    entries = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break
        entry = _object(line)
        if entry is None or not entry.keys() >= set(names):
            raise UserError(f"{path}, line {number}: damaged: go on with the run by --resume, which mends it")
        entries.append(entry)
    return entries


def append(path: Path, entries: Iterable[Mapping[str, Any]], wait: bool = False) -> None:
    """Write a line for each entry. wait: for the disk. UserError if it cannot be written."""
    with writing(path), path.open("a") as file:
        file.writelines(json.dumps(entry, allow_nan=False) + "\n" for entry in entries)
        if wait:
            sync(file)


def sync(file: IO[str]) -> None:
    """Wait until what was written is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def cut_back(path: Path, next_steps: Callable[[int], range], before: int = 0) -> list[dict[str, Any]]:
    """Truncate a file before its first line that is not whole or of no step that may follow; return the rest.

    next_steps: the steps that may follow a line of a step; before: the step before the first line's.
    """
    entries: list[dict[str, Any]] = []
    size = 0
    with writing(path), path.open("ab+") as file:
        file.seek(0)
        for line in file:
            entry = _object(line)
            previous = entries[-1]["step"] if entries else before
            if entry is None or entry.get("step") not in next_steps(previous):
                break
            entries.append(entry)
            size += len(line)
        file.truncate(size)
    return entries


def _object(line: bytes) -> dict[str, Any] | None:
    """Return a line's JSON object, None if the line is torn or damaged."""
    value = load(line) if line.endswith(b"\n") else None
    return value if isinstance(value, dict) else None

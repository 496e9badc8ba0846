"""What `metrics.jsonl` and `evals.jsonl` of a run say."""

import json
from pathlib import Path
from typing import Any

from sglang_mezo_plugin.errors import UserError


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
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not entry.keys() >= set(names):
            raise UserError(f"{path}, line {number}: damaged: go on with the run by --resume, which mends it")
        entries.append(entry)
    return entries

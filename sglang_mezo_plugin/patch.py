"""Applies the patches of sglang-mezo to SGLang, checks them, and takes them back.

python -m sglang_mezo_plugin.patch check | apply | revert [--target DIR]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sglang_mezo_plugin.patching.diffs import PatchError
from sglang_mezo_plugin.patching.series import COMMAND, apply, revert, state
from sglang_mezo_plugin.patching.targets import SGLANG_VERSION, find_target, touched_files


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PatchError(f"{message}: see {COMMAND} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command. 0: as asked; 1: `check` found stock; 2: refused, in one line on stderr."""
    parser = _Parser(prog=COMMAND, description=f"The patches of sglang-mezo for SGLang {SGLANG_VERSION}.")
    parser.add_argument("action", choices=("check", "apply", "revert"))
    parser.add_argument("--target", type=Path, metavar="DIR", help="an SGLang other than the installed one")
    try:
        args = parser.parse_args(argv)
        return _run(args.action, args.target)
    except PatchError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: {error.filename}, {error.strerror}: make it readable for you", file=sys.stderr)
    return 2


def _run(action: str, path: Path | None) -> int:
    target = find_target(path)
    files = touched_files(target)
    patches = {diff.patch for file in files for diff in file.diffs}
    extent = f"{len(patches)} patches to {len(files)} files in {target.package}"
    if action == "apply":
        print(f"applied {extent}" if apply(target) else f"already applied {extent}, nothing changed")
    elif action == "revert":
        print(f"reverted {extent}" if revert(target) else f"not applied, nothing changed in {target.package}")
    elif state(target) == "patched":
        print(f"patched: {len(patches)} patches, {len(files)} files, {target.package}")
    else:
        option = f" --target {path}" if path else ""
        print(f"not patched: {target.package}; run: {COMMAND} apply{option}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

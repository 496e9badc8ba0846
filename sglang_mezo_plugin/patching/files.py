"""Replaces, makes and removes files, all of them or none."""

from __future__ import annotations

import glob
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from sglang_mezo_plugin.patching.diffs import PatchError


@dataclass(frozen=True)
class Swap:
    """One file's new content, prepared beside it, so that carrying it out or undoing it is only a rename.

    The file itself is never written to: in site-packages it may be a link into a package manager's cache.
    """

    path: Path
    content: bytes | None
    mode: int

    def prepare(self) -> None:
        self.discard()  # what a crash may have left
        self.path.parent.mkdir(parents=True, exist_ok=True)
        mode = self.mode
        if self.path.exists():
            mode = stat.S_IMODE(self.path.stat().st_mode)
            shutil.copy2(self.path, self._beside("old"), follow_symlinks=False)
        if self.content is not None:
            with self._beside("new").open("xb") as file:
                file.write(self.content)
                os.fchmod(file.fileno(), mode)
                file.flush()
                os.fsync(file.fileno())

    def carry_out(self) -> None:
        self._put(self._beside("new"))

    def undo(self) -> None:
        self._put(self._beside("old"))

    def discard(self) -> None:
        self._beside("new").unlink(missing_ok=True)
        self._beside("old").unlink(missing_ok=True)

    def _beside(self, kind: str) -> Path:
        return self.path.with_name(f".{self.path.name}.mezo-{kind}")

    def _put(self, source: Path) -> None:
        if os.path.lexists(source):
            os.replace(source, self.path)
        else:
            self.path.unlink(missing_ok=True)
        # Python knows stale bytecode by size and whole seconds alone, and these could be the same.
        for bytecode in (self.path.parent / "__pycache__").glob(f"{glob.escape(self.path.stem)}.*.pyc"):
            bytecode.unlink(missing_ok=True)


def carry_out(swaps: list[Swap]) -> None:
    """All of them or, whatever happens, none."""
    begun: list[Swap] = []
    try:
        for swap in swaps:
            swap.prepare()
        for swap in swaps:
            begun.append(swap)
            swap.carry_out()
    except BaseException:  # an interrupt must not leave half either
        _undo(begun)
        raise
    finally:
        for swap in swaps:
            swap.discard()
            _remove_empty_folders(swap.path.parent)


def _undo(swaps: list[Swap]) -> None:
    failed: list[OSError] = []
    for swap in swaps:
        try:
            swap.undo()
        except OSError as error:
            failed.append(error)
    if failed:
        raise PatchError(f"{failed[0]}, files were left patched by halves: delete SGLang and install it anew")


def _remove_empty_folders(folder: Path) -> None:
    """Removes the folder if nothing is left in it, and then likewise those around it, as git does."""
    for candidate in (folder / "__pycache__", folder, *folder.parents):
        try:
            candidate.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return

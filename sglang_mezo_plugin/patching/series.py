"""What can be done with a target: tell its state, patch it, take the patches back.

The patches are made with `git format-patch --full-index`, so each file's diff names the git blob id (a SHA-1
of the content) of the file before and after it. The series thus carries its own checksums, and the blob ids
of a target's files alone tell its state: all as before the first patch is stock, all as after the last is
patched, and anything else is refused before a byte is written.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from sglang_mezo_plugin.patching.diffs import ABSENT, PatchError, blob_id
from sglang_mezo_plugin.patching.files import Swap, carry_out
from sglang_mezo_plugin.patching.targets import Target, TouchedFile, find_target, touched_files

COMMAND = "python -m sglang_mezo_plugin.patch"

State = Literal["stock", "patched"]


def state(target: Target) -> State:
    """Whether the target is stock or patched; PatchError if it is anything else."""
    with _held(target, fcntl.LOCK_SH):
        return _state(target, touched_files(target))


def apply(target: Target) -> bool:
    """Patches the target, wholly or not at all; False if it was patched already."""
    return _bring_to("patched", target)


def revert(target: Target) -> bool:
    """Gives the target its original bytes back, wholly or not at all; False if it had them."""
    return _bring_to("stock", target)


def require_patched() -> None:
    """PatchError, in one line with its cure, unless the SGLang that would be imported carries the patches."""
    target = find_target()
    if state(target) != "patched":
        raise PatchError(f"SGLang in {target.package} is not patched: {COMMAND} apply")


def _bring_to(wanted: State, target: Target) -> bool:
    with _held(target, fcntl.LOCK_EX):
        files = touched_files(target)
        if _state(target, files) == wanted:
            return False
        carry_out([_swap(file, backwards=wanted == "stock") for file in files])
        return True


def _state(target: Target, files: list[TouchedFile]) -> State:
    found = [(file, blob_id(_content(file.path))) for file in files]
    for file, blob in found:
        if blob not in {file.stock, *(diff.after for diff in file.diffs)}:
            what = "is missing" if blob == ABSENT else "has been edited, or is of another release"
            raise PatchError(f"{file.path} {what}: {target.cure}")
    changed = [file.path for file, blob in found if blob != file.stock]
    unfinished = [file.path for file, blob in found if blob != file.patched]
    if changed and unfinished:
        first = f"{changed[0]} has been patched and {unfinished[0]} not, or not wholly"
        raise PatchError(f"half applied, {first}: {target.cure}")
    return "stock" if unfinished else "patched"


def _swap(file: TouchedFile, *, backwards: bool) -> Swap:
    diffs = [diff.reverse() for diff in reversed(file.diffs)] if backwards else file.diffs
    content = _content(file.path)
    for diff in diffs:
        content = diff.apply_to(content)
    return Swap(file.path, content, diffs[-1].mode)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


@contextmanager
def _held(target: Target, lock: int) -> Iterator[None]:
    """Keeps other runs away from the target, and turns what its file system refuses into a PatchError."""
    try:
        folder = os.open(target.package, os.O_RDONLY)
        try:
            # The kernel drops the lock with its process, so a crash leaves none behind. NFS locks no folders:
            # there only the blob ids protect.
            with suppress(OSError):
                fcntl.flock(folder, lock)
            yield
        finally:
            os.close(folder)
    except OSError as error:
        raise PatchError(
            f"{error.filename or target.package}, {error.strerror}, nothing was changed: "
            "run as a user who may write there, on a disk with room"
        ) from error

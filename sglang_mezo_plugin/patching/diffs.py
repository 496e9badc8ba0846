"""Reads the patches of sglang-mezo, and tells what they make of a file's content.

This module reads the patches itself, for two reasons. The user's machine needs neither git nor patch. And
those tools go looking for a hunk's place when it isn't at its line, patch even with fuzz; here the content is
known to be the one that the patch was made on, so a hunk fits at its line and gives the named blob, or fails.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from sglang_mezo_plugin.errors import UserError

# Where the patches are once installed, and where they are in a checkout of this repository.
PATCH_FOLDERS = (Path(__file__).parents[1] / "_patches", Path(__file__).parents[2] / "patches")
ABSENT = "0" * 40  # git's blob id for "no such file"


class PatchError(UserError):
    """A refusal. Its text is one line: what is wrong, then what cures it."""


class Block(NamedTuple):
    """Some lines of a file, and how many lines stand above them."""

    start: int
    lines: list[bytes]


class Hunk(NamedTuple):
    """What stands as `old` in the file before stands as `new` in the file after."""

    old: Block
    new: Block


@dataclass(frozen=True)
class FileDiff:
    """What one patch does to one file, which it turns from the blob `before` into the blob `after`."""

    patch: str
    path: str
    before: str
    after: str
    mode: int  # the permissions of a file that this diff creates or, reversed, brings back
    hunks: list[Hunk]

    def reverse(self) -> FileDiff:
        hunks = [Hunk(old=hunk.new, new=hunk.old) for hunk in self.hunks]
        return replace(self, before=self.after, after=self.before, hunks=hunks)

    def apply_to(self, content: bytes | None) -> bytes | None:
        """The content after this diff; None, on either side, for a file that isn't there."""
        lines = BytesIO(content or b"").readlines()
        result: list[bytes] = []
        done = 0
        fits = True
        for old, new in self.hunks:
            result += lines[done : old.start] + new.lines
            done = old.start + len(old.lines)
            fits = fits and lines[old.start : done] == old.lines
        changed = b"".join(result + lines[done:])
        outcome = None if self.after == ABSENT and not changed else changed
        if not fits or blob_id(outcome) != self.after:
            raise PatchError(
                f"{self.patch} does not turn {self.path} into the blob it names: "
                "make it anew with git format-patch --full-index"
            )
        return outcome


def blob_id(content: bytes | None) -> str:
    """What git calls a file of this content."""
    return ABSENT if content is None else hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def read_patch(patch: Path) -> Iterator[FileDiff]:
    """The diffs in one mail of `git format-patch`."""
    # A line inside a hunk starts with a space, a sign or a backslash: it can't be taken for either heading.
    for section in re.split(rb"^(?=diff --git )", patch.read_bytes(), flags=re.MULTILINE)[1:]:
        header, *hunks = re.split(rb"^(?=@@ )", section, flags=re.MULTILINE)
        path = re.match(rb"diff --git a/(.+) b/\1\n", header)
        blobs = re.search(rb"^index ([0-9a-f]{40})\.\.([0-9a-f]{40})(?: 100\d{3})?$", header, re.MULTILINE)
        mode = re.search(rb"^(?:new|deleted) file mode 100(\d{3})$", header, re.MULTILINE)
        unsupported = re.search(rb"^(GIT binary|Binary|rename|copy|old mode)\b", header, re.MULTILINE)
        if not path or not blobs or unsupported:
            heading = header.split(b"\n", 1)[0].decode(errors="replace")
            raise PatchError(
                f"{patch.name}, {heading!r} is a rename, mode change or binary file, or has short blob ids: "
                "make the patch anew with git format-patch --full-index --no-renames"
            )
        before, after = (blob.decode() for blob in blobs.groups())
        permissions = int(mode[1], 8) if mode else 0o644
        parsed = [_read_hunk(hunk, patch.name) for hunk in hunks]
        yield FileDiff(patch.name, path[1].decode(), before, after, permissions, parsed)


def _read_hunk(text: bytes, patch: str) -> Hunk:
    heading, *lines = BytesIO(text).readlines()
    place = heading.decode(errors="replace").strip()
    malformed = PatchError(f"{patch} is malformed after {place!r}: restore the patch")
    numbers = re.match(rb"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", heading)
    if not numbers:
        raise malformed
    old_line, old_count, new_line, new_count = (int(number or 1) for number in numbers.groups())
    old: list[bytes] = []
    new: list[bytes] = []
    sides: tuple[list[bytes], ...] = ()
    for line in lines:
        if line.startswith(b"\\"):  # "\ No newline at end of file" speaks of the line above it
            for side in sides:
                side[-1] = side[-1].removesuffix(b"\n")
            continue
        if len(old) == old_count and len(new) == new_count:
            break  # the counts matter: the mail's closing "-- " looks like a removed line
        sides = {b" ": (old, new), b"-": (old,), b"+": (new,)}.get(line[:1], ())
        if not sides:
            raise malformed
        for side in sides:
            side.append(line[1:])
    if len(old) != old_count or len(new) != new_count:
        raise malformed
    # A side without lines is headed by the line before it, and so already counts from 0.
    return Hunk(Block(old_line - bool(old), old), Block(new_line - bool(new), new))


def patch_folder() -> Path:
    return next((folder for folder in PATCH_FOLDERS if folder.is_dir()), PATCH_FOLDERS[0])


def read_series() -> dict[str, list[FileDiff]]:
    """For each file that the patches touch: what they do to it, in order."""
    folder = patch_folder()
    patches = sorted(folder.glob("*.patch"))
    if not patches:
        raise PatchError(f"no patches in {folder}: reinstall sglang-mezo, or restore its checkout")
    history: dict[str, list[FileDiff]] = {}
    for diff in (diff for patch in patches for diff in read_patch(patch)):
        earlier = history.setdefault(diff.path, [])
        if earlier and earlier[-1].after != diff.before:
            raise PatchError(
                f"{diff.patch} does not continue {earlier[-1].patch} at {diff.path}: "
                "make the series anew from one branch with git format-patch --full-index"
            )
        earlier.append(diff)
    return history

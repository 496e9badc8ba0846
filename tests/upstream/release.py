"""The release under the installed SGLang, and the patches one by one."""

import os
import shutil
from pathlib import Path

from sglang_mezo_plugin.patching.diffs import FileDiff, read_series
from sglang_mezo_plugin.patching.series import revert
from sglang_mezo_plugin.patching.targets import find_target


def by_patch() -> dict[str, list[FileDiff]]:
    patches: dict[str, list[FileDiff]] = {}
    for diffs in read_series().values():
        for diff in diffs:
            patches.setdefault(diff.patch, []).append(diff)
    return dict(sorted(patches.items()))


def copy_release(folder: Path) -> None:
    """A copy of the installed SGLang, unpatched."""
    package = find_target().package
    shutil.copytree(
        package, folder / "sglang", copy_function=_link, ignore=shutil.ignore_patterns("__pycache__")
    )
    revert(find_target(folder))


def _link(source: str, destination: str) -> None:
    try:
        os.link(source, destination)  # the patch command never writes through one
    except OSError:  # another file system
        shutil.copy2(source, destination)

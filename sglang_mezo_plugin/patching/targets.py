"""Finds an SGLang to patch, and in it the files that the patches touch."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from sglang_mezo_plugin.patching.diffs import FileDiff, PatchError, read_series

SGLANG_VERSION = "0.5.23"


@dataclass(frozen=True)
class Target:
    """A copy of SGLang: an installed package, or a source checkout with its tests around the package."""

    package: Path
    is_checkout: bool

    def locate(self, path: str) -> Path | None:
        """Where a file of SGLang's repository is here; None for one that doesn't get installed."""
        if self.is_checkout:
            return self.package.parents[1] / path
        if path.startswith("python/sglang/"):
            return self.package.parent / path.removeprefix("python/")
        return None

    @property
    def cure(self) -> str:
        """How to get back the release. A mere reinstall would leave the files that the patches created."""
        if self.is_checkout:
            return f"git -C {self.package.parents[1]} stash -u, with v{SGLANG_VERSION} checked out"
        reinstall = f"pip install --force-reinstall --no-deps sglang=={SGLANG_VERSION}"
        return f"delete {self.package} and run: {reinstall}"


@dataclass(frozen=True)
class TouchedFile:
    """A file of a target, and what the patches do to it."""

    path: Path
    diffs: list[FileDiff]

    @property
    def stock(self) -> str:
        return self.diffs[0].before

    @property
    def patched(self) -> str:
        return self.diffs[-1].after


def touched_files(target: Target) -> list[TouchedFile]:
    """The files of the target that the patches touch."""
    located = ((target.locate(path), diffs) for path, diffs in read_series().items())
    return [TouchedFile(path, diffs) for path, diffs in located if path]


def find_target(path: Path | None = None) -> Target:
    """The SGLang at `path`, or else the one this Python would import.

    An install must be of the supported release.
    """
    package = _installed_package() if path is None else _package_in(path)
    target = Target(package, _is_checkout(package))
    if target.is_checkout:
        return target  # setuptools_scm writes development versions there, so the blob ids must do
    version, source = _version(package)
    if version not in (SGLANG_VERSION, None):
        raise PatchError(
            f"SGLang {version} found ({source}), the patches are for {SGLANG_VERSION}: "
            f"pip install sglang=={SGLANG_VERSION}"
        )
    return target


def _installed_package() -> Path:
    spec = importlib.util.find_spec("sglang")  # finds without importing, which would take half a minute
    if spec is None or spec.origin is None:
        raise PatchError(
            f"sglang is not installed for {sys.executable}: "
            f"pip install sglang=={SGLANG_VERSION}, or name a copy with --target"
        )
    return Path(spec.origin).parent.resolve()  # the file itself may be a link into a cache


def _package_in(path: Path) -> Path:
    path = path.resolve()
    for package in (path / "python" / "sglang", path / "sglang", path):
        if package.name == "sglang" and (package / "__init__.py").is_file():
            return package.resolve()
    raise PatchError(f"no sglang in {path}: name its folder, a site-packages or a source checkout")


def _is_checkout(package: Path) -> bool:
    """Whether the package lies in SGLang's repository; beside an installed package lies its dist-info."""
    root = package.parents[1]
    return (
        package.parent.name == "python"
        and not any(package.parent.glob("sglang-*.dist-info"))
        and ((root / ".git").exists() or (root / "test").is_dir())
    )


def _version(package: Path) -> tuple[str | None, Path]:
    """The package's version and what tells it; no version in a bare copy, where the blob ids must do."""
    version_file = package / "_version.py"
    if version_file.is_file():
        text = version_file.read_text(errors="replace")
        found = re.search(r"^__version__ =.*?['\"](.+?)['\"]", text, re.MULTILINE)
        if found:
            return found[1], version_file
    for dist_info in package.parent.glob("sglang-*.dist-info"):
        return dist_info.name.removeprefix("sglang-").removesuffix(".dist-info"), dist_info
    return None, package

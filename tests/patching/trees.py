"""A small SGLang in three versions, the patches between them, and folders to compare."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

MODEL = "python/sglang/srt/model.py"

# Three commits: the release, and what two patches make of it. None: the commit removes the file.
RELEASE: dict[str, bytes | None] = {
    "python/sglang/__init__.py": b"",
    "python/sglang/launch.sh": b"#!/bin/sh\necho one\n",
    "python/sglang/dos.txt": b"one\r\ntwo\r\nthree\r\n",
    "python/sglang/unended.txt": b"one\ntwo",
    "python/sglang/old/gone.py": b"GONE = 1\n",
    "python/sglang/untouched.py": b"U = 1\n",
    "test/registered/test_model.py": b"def test(): pass\n",
    MODEL: b"".join(b"line %d\n" % number for number in range(60)),
}
FIRST: dict[str, bytes | None] = {
    MODEL: RELEASE[MODEL].replace(b"line 5\n", b"line five\nand more\n").replace(b"line 50\n", b""),
    "python/sglang/dos.txt": b"one\r\n2\r\nthree\r\n",
    "python/sglang/unended.txt": b"one\ntwo\nthree",
    "python/sglang/new/deep/made.py": b"MADE = 1\n",
    "python/sglang/new/__init__.py": b"",
    "test/registered/mezo/test_new.py": b"def test_new(): pass\n",
}
SECOND: dict[str, bytes | None] = {
    MODEL: FIRST[MODEL].replace(b"line 6\n", b"-- \n--- a/x\n+++ b/x\n@@ -1 +1 @@\n"),
    "python/sglang/launch.sh": b"#!/bin/sh\necho two\n",
    "python/sglang/unended.txt": b"one\ntwo\nthree\n",
    "python/sglang/old/gone.py": None,
    "test/registered/test_model.py": b"def test(): assert True\n",
}


def write(root: Path, files: dict[str, bytes | None]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        if name.endswith(".sh"):
            path.chmod(0o755)


def git(root: Path, *arguments: str) -> None:
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CEILING_DIRECTORIES": "/"}
    people = ("-c", "user.name=Someone", "-c", "user.email=someone@example.org", "-c", "core.autocrlf=false")
    subprocess.run(["git", *people, *arguments], cwd=root, env=os.environ | settings, check=True)


def format_patches(
    repository: Path, folder: Path, *versions: dict[str, bytes | None], option: str = ""
) -> None:
    """Commits the versions one on another, and makes the patches that lead from the first to the last."""
    repository.mkdir()
    git(repository, "init", "--quiet")
    for number, files in enumerate(versions):
        write(repository, files)
        git(repository, "add", "--all", "--force")
        git(repository, "commit", "--quiet", "--message", f"version {number}\n\ndiff of a kind\n@@ here\n")
        if number == 0:
            git(repository, "tag", "release")
    options = ("--quiet", option or "--full-index", "--output-directory", str(folder))
    git(repository, "format-patch", *options, "release")


def installed(files: dict[str, bytes | None]) -> dict[str, bytes | None]:
    """Those files that an install has, under the names they have there."""
    return {name.removeprefix("python/"): text for name, text in files.items() if name.startswith("python/")}


def tree(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """Every folder and file with its mode and content."""
    return {
        str(path.relative_to(root)): (path.stat().st_mode, None if path.is_dir() else path.read_bytes())
        for path in root.rglob("*")
    }


def contents(root: Path) -> dict[str, bytes | None]:
    return {name: content for name, (_, content) in tree(root).items() if content is not None}


def checkout(root: Path) -> Path:
    write(root, RELEASE)
    (root / ".git").mkdir()
    return root

"""Shows for each patch that it applies to the release alone, and leaves SGLang importable.

Unusual: `git apply` finds each hunk's place, as it would for a pull request against the release. A patch that
continues another in the same file gets that one first, and the table names it.

    make prove           (or: .venv/bin/python tests/upstream/alone.py)
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from release import by_patch, copy_release

from sglang_mezo_plugin.patching.diffs import FileDiff, patch_folder


def needed(patch: str, patches: dict[str, list[FileDiff]], release: Path) -> list[str]:
    """The earlier patches without which this one does not apply: none, or those of the same files."""
    if git_apply([patch], release, "--check"):
        return []
    files = {diff.path for diff in patches[patch]}
    earlier = list(patches)[: list(patches).index(patch)]
    direct = [name for name in earlier if files & {diff.path for diff in patches[name]}]
    return sorted({name for other in direct for name in [*needed(other, patches, release), other]})


def git_apply(names: list[str], release: Path, *options: str) -> bool:
    command = ["git", "apply", "-p2", "--include=sglang/*", *options]
    paths = [str(patch_folder() / name) for name in names]
    outside_any_repository = {**os.environ, "GIT_CEILING_DIRECTORIES": str(release.parent)}
    return not subprocess.run(
        command + paths, cwd=release, env=outside_any_repository, capture_output=True
    ).returncode


def touched_modules(diffs: list[FileDiff]) -> list[str]:
    package = [diff.path for diff in diffs if diff.path.startswith("python/sglang/")]
    return [path.removeprefix("python/").removesuffix(".py").replace("/", ".") for path in package]


def imports(modules: list[str], release: Path) -> bool:
    code = "; ".join(f"import {module}" for module in modules or ["sglang"])
    return not subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "PYTHONPATH": str(release)}
    ).returncode


def main() -> int:
    patches = by_patch()
    sound = True
    print(f"{'patch':60}  {'after':15}  imports", flush=True)
    for patch, diffs in patches.items():
        with tempfile.TemporaryDirectory() as scratch:
            release = Path(scratch)
            copy_release(release)
            first = needed(patch, patches, release)
            applied = all(git_apply([name], release) for name in [*first, patch])
            works = applied and imports(touched_modules(diffs), release)
        sound = sound and works
        print(f"{patch[:60]:60}  {' '.join(name[:4] for name in first):15}  {works}", flush=True)
    print("each patch alone leaves SGLang importable" if sound else "NOT as it should be")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())

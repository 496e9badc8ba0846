"""Shows for each patch that its tests fail without it and pass with it.

Unusual: the tests run on a copy of the installed SGLang, to which the patches are applied one after the
other. "without" is the release with all earlier patches, so a failure there is owed to this patch alone;
the tests of the patch are written beside the copy in either case. It takes some twenty minutes on two cores,
most of which goes into importing SGLang.

    make prove           (or: .venv/bin/python tests/upstream/prove.py [0003 0007 ...])
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from registered import PREFIX, write_tests
from release import by_patch, copy_release

from sglang_mezo_plugin.patching.diffs import FileDiff


def apply_one(diffs: list[FileDiff], folder: Path) -> None:
    for diff in diffs:
        if diff.path.startswith("python/sglang/"):
            file = folder / diff.path.removeprefix("python/")
            content = diff.apply_to(file.read_bytes() if file.exists() else None)
            file.unlink(missing_ok=True)  # it is a link
            if content is not None:
                file.write_bytes(content)


def run_tests(tests: list[Path], release: Path) -> tuple[bool, str]:
    """Whether all passed, and what pytest counted."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", "--tb=no", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tests[0].parents[-1]), "-c", os.devnull, *map(str, tests)]
    env = {**os.environ, "PYTHONPATH": str(release)}
    run = subprocess.run(command, env=env, capture_output=True, text=True, cwd=release)
    counted = re.findall(r"(\d+) (passed|failed|errors?)\b", run.stdout.strip().splitlines()[-1])
    return run.returncode == 0, ", ".join(f"{count} {what}" for count, what in counted)


def main(only: list[str]) -> int:
    sound = True
    print(f"{'patch':60}  {'without it':24}  {'with it'}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        release = Path(scratch, "release")
        copy_release(release)
        for patch, diffs in by_patch().items():
            tests = {diff.path: [diff] for diff in diffs if diff.path.startswith(PREFIX)}
            files = write_tests(Path(scratch, patch), tests)
            wanted = not only or patch[:4] in only
            before = run_tests(files, release) if wanted else None
            apply_one(diffs, release)
            if wanted:
                after = run_tests(files, release)
                sound = sound and not before[0] and after[0]
                print(f"{patch.removesuffix('.patch')[:60]:60}  {before[1]:24}  {after[1]}", flush=True)
    print("each patch's tests fail without it and pass with it" if sound else "NOT as it should be")
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

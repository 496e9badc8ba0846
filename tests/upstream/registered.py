"""The tests that the patches bring, taken out of the patches.

They belong to SGLang's repository (`test/registered/...`), so an installed SGLang does not have them, and
they stand in one place only: in the patches.
"""

from pathlib import Path

from sglang_mezo_plugin.patching.diffs import FileDiff, read_series

PREFIX = "test/registered/"


def brought_tests() -> dict[str, list[FileDiff]]:
    """The test files that the series creates, with the diffs that make them up."""
    return {path: diffs for path, diffs in read_series().items() if path.startswith(PREFIX)}


def write_tests(folder: Path, tests: dict[str, list[FileDiff]]) -> list[Path]:
    """Write the test files below `folder`, as they are after the given diffs."""
    written = []
    for path, diffs in tests.items():
        content = None
        for diff in diffs:
            content = diff.apply_to(content)
        if content is not None:
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            written.append(file)
    return written

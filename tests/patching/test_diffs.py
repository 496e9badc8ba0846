"""Series of patches that are refused: none at all, broken, damaged, or of a kind that isn't read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from trees import RELEASE, format_patches, tree


def test_no_patches(
    site: Path, tmp_path: Path, refused: Callable[..., str], use_patches: Callable[[Path], None]
) -> None:
    use_patches(tmp_path / "none")
    assert f"no patches in {tmp_path / 'none'}" in refused("check", "--target", site)


def test_broken_chain(
    site: Path, series: Path, tmp_path: Path, refused: Callable[..., str], use_patches: Callable[[Path], None]
) -> None:
    first, second = sorted(series.iterdir())
    (tmp_path / "swapped").mkdir()
    shutil.copy(first, tmp_path / "swapped" / "0002-late.patch")
    shutil.copy(second, tmp_path / "swapped" / "0001-early.patch")
    use_patches(tmp_path / "swapped")
    line = refused("apply", "--target", site)
    assert "0002-late.patch does not continue 0001-early.patch" in line


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (b"-line 50\n", b"-line 49\n", "does not turn"),  # content that isn't there
        (b" line 48\n", b" line 4_\n", "does not turn"),  # context that isn't there
        (b"+line five\n", b"+line cinq\n", "does not turn"),  # another outcome than the one named
        (b"@@ -48,", b"@@ -47,", "does not turn"),  # a place where it would fit only by a search
        (b" line 48\n", b"", "malformed"),
        (b" line 48\n", b"\n", "malformed"),
    ],
)
def test_damaged_patch(
    site: Path,
    series: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    use_patches: Callable[[Path], None],
    before: bytes,
    after: bytes,
    message: str,
) -> None:
    first, stock = sorted(series.iterdir())[0], tree(site)
    text = first.read_bytes()
    assert text.count(before) == 1
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / first.name).write_bytes(text.replace(before, after))
    use_patches(tmp_path / "damaged")
    line = refused("apply", "--target", site)
    assert first.name in line and message in line
    assert tree(site) == stock


RENAMED = {
    "python/sglang/untouched.py": None,
    "python/sglang/renamed.py": RELEASE["python/sglang/untouched.py"],
}


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"python/sglang/untouched.py": b"\0\1\2"}, "--full-index"),
        (RENAMED, "--full-index"),
        ({"python/sglang/untouched.py": b"U = 2\n"}, "--abbrev=7"),
    ],
    ids=["binary", "rename", "short blob ids"],
)
def test_patches_of_another_kind(
    site: Path,
    tmp_path: Path,
    refused: Callable[..., str],
    use_patches: Callable[[Path], None],
    change: dict[str, bytes | None],
    option: str,
) -> None:
    format_patches(tmp_path / "repository", tmp_path / "patches", RELEASE, change, option=option)
    use_patches(tmp_path / "patches")
    line = refused("apply", "--target", site)
    assert "0001-version-1.patch" in line and "python/sglang/untouched.py" in line

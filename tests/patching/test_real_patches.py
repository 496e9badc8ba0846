"""The real patches, on the files of the installed SGLang that they touch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from trees import contents, git

from sglang_mezo_plugin import patch
from sglang_mezo_plugin.patching.diffs import read_series
from sglang_mezo_plugin.patching.targets import Target

REAL_PATCHES = sorted((Path(__file__).parents[2] / "patches").glob("*.patch"))


@pytest.fixture(scope="session")
def real_stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed SGLang's files that the real patches touch, as in the release, as `python/sglang/...`."""
    root = tmp_path_factory.mktemp("stock")
    installed_sglang = patch.find_target()
    copy = Target(root / "python" / "sglang", is_checkout=False)
    copy.package.mkdir(parents=True)
    for name in read_series():
        source, destination = installed_sglang.locate(name), copy.locate(name)
        if source and destination and source.exists():
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, destination)
    patch.revert(copy)
    return root


@pytest.mark.parametrize("count", range(1, len(REAL_PATCHES) + 1))
def test_real_patches_agree_with_git(
    real_stock: Path, tmp_path: Path, use_patches: Callable[[Path], None], count: int
) -> None:
    ours, gits, folder = (tmp_path / name for name in ("ours", "git", "patches"))
    shutil.copytree(real_stock, ours)
    shutil.copytree(real_stock, gits)
    folder.mkdir()
    for real in REAL_PATCHES[:count]:
        shutil.copy(real, folder)
        git(gits, "apply", "--include=python/sglang/*", str(real))
    use_patches(folder)
    target = Target(ours / "python" / "sglang", is_checkout=False)
    patch.apply(target)
    assert patch.state(target) == "patched"
    assert contents(ours) == contents(gits)
    patch.revert(target)
    assert contents(ours) == contents(real_stock)

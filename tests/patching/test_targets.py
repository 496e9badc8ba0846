"""Which SGLang is found, and that it is of the right version."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trees import MODEL, checkout, tree, write

from sglang_mezo_plugin import patch
from sglang_mezo_plugin.patching import targets


@pytest.mark.parametrize("form", ["", "python", "python/sglang"])
def test_forms_of_a_checkout(tmp_path: Path, form: str) -> None:
    root = checkout(tmp_path / "sglang")
    assert patch.find_target(root / form) == targets.Target(root / "python" / "sglang", is_checkout=True)


@pytest.mark.parametrize("form", ["", "sglang"])
def test_forms_of_an_install(site: Path, form: str) -> None:
    assert patch.find_target(site / form) == targets.Target(site / "sglang", is_checkout=False)


def test_install_in_a_folder_named_python_is_no_checkout(tmp_path: Path, site: Path) -> None:
    (tmp_path / "test").mkdir()
    assert not patch.find_target(site.rename(tmp_path / "python")).is_checkout


def test_finds_the_installed_one_without_importing_it(
    site: Path, monkeypatch: pytest.MonkeyPatch, says: Callable[..., str]
) -> None:
    (site / "sglang/__init__.py").write_bytes(b"raise RuntimeError('imported')\n")
    monkeypatch.delitem(sys.modules, "sglang", raising=False)
    monkeypatch.syspath_prepend(site)
    assert str(site / "sglang") in says(0, "apply")


def test_version_mismatch(site: Path, refused: Callable[..., str]) -> None:
    (site / "sglang/_version.py").write_text("__version__ = version = '0.5.22'\n")
    line = refused("apply", "--target", site)
    assert (
        "0.5.22" in line and str(site / "sglang/_version.py") in line and "pip install sglang==0.5.23" in line
    )


def test_version_mismatch_told_by_the_dist_info(site: Path, refused: Callable[..., str]) -> None:
    (site / "sglang/_version.py").unlink()
    (site / "sglang-0.5.23.dist-info").rename(site / "sglang-0.5.24.dist-info")
    assert "0.5.24" in refused("check", "--target", site)


def test_version_of_a_checkout_is_not_looked_at(tmp_path: Path) -> None:
    """A build in a checkout writes a version counted from the last tag that it knows."""
    root = checkout(tmp_path / "checkout")
    write(root, {"python/sglang/_version.py": b"__version__ = version = '0.5.24.dev7+gc0ffee'\n"})
    assert patch.find_target(root).is_checkout


def test_checkout_of_another_release_is_told_by_its_files(
    tmp_path: Path, site: Path, refused: Callable[..., str]
) -> None:
    root = checkout(tmp_path / "checkout")
    write(root, {MODEL: b"another release\n", "python/sglang/_version.py": b"__version__ = '0.5.23'\n"})
    before = tree(root)
    line = refused("apply", "--target", root)
    assert f"{root / MODEL} has been edited, or is of another release" in line
    assert f"git -C {root} stash -u, with v0.5.23 checked out" in line
    assert tree(root) == before


def test_target_without_sglang(tmp_path: Path, refused: Callable[..., str]) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert f"no sglang in {folder}" in refused("check", "--target", folder)


def test_sglang_not_installed(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    assert "pip install sglang==0.5.23" in refused("apply")

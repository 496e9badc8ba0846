"""What becomes of the files: modes, links, bytecode, and everything as it was after a failure."""

from __future__ import annotations

import errno
import os
import py_compile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trees import MODEL, RELEASE, SECOND, tree

from sglang_mezo_plugin import patch
from sglang_mezo_plugin.patching.files import Swap


def test_modes(site: Path) -> None:
    (site / MODEL.removeprefix("python/")).chmod(0o640)
    patch.apply(patch.find_target(site))
    modes = {name: mode & 0o777 for name, (mode, _) in tree(site).items()}
    assert modes["sglang/launch.sh"] == 0o755
    assert modes["sglang/srt/model.py"] == 0o640
    assert modes["sglang/new/deep/made.py"] == 0o644


def test_hard_link_keeps_its_bytes(site: Path) -> None:
    installed_file, cached = site / "sglang/srt/model.py", site.parent / "cached.py"
    os.link(installed_file, cached)
    target = patch.find_target(site)
    for operation in (patch.apply, patch.revert):
        assert operation(target)
        assert cached.read_bytes() == RELEASE[MODEL]
        assert installed_file.stat().st_ino != cached.stat().st_ino


def test_symbolic_link_keeps_its_bytes(site: Path) -> None:
    installed_file, cached = site / "sglang/srt/model.py", site.parent / "cached.py"
    installed_file.rename(cached)
    installed_file.symlink_to(cached)
    assert patch.apply(patch.find_target(site))
    assert cached.read_bytes() == RELEASE[MODEL]
    assert installed_file.read_bytes() == SECOND[MODEL]


def test_stale_bytecode_goes(site: Path) -> None:
    module, made = site / "sglang/srt/model.py", site / "sglang/new/deep/made.py"
    other = Path(py_compile.compile(str(site / "sglang/untouched.py")))
    cached = module.parent / "__pycache__" / "model.cpython-311.pyc"
    target = patch.find_target(site)
    for operation in (patch.apply, patch.revert):
        cached.parent.mkdir(exist_ok=True)
        cached.write_bytes(b"stale")
        operation(target)
        assert not cached.exists()
        if made.exists():
            py_compile.compile(str(made))  # must not keep the folder alive once the file goes
    assert not (site / "sglang/new").exists()
    assert other.exists()


@pytest.mark.parametrize("operation", [patch.apply, patch.revert])
@pytest.mark.parametrize("failing", ["replace", "fsync"])
def test_failure_in_the_middle_changes_nothing(
    site: Path, monkeypatch: pytest.MonkeyPatch, operation: Callable[..., bool], failing: str
) -> None:
    target = patch.find_target(site)
    if operation is patch.revert:
        patch.apply(target)
    before = tree(site)
    calls: Iterator[int] = iter(range(1000))
    original = getattr(os, failing)

    def fail_the_second_time(*arguments: object) -> None:
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "some file")
        original(*arguments)

    monkeypatch.setattr(os, failing, fail_the_second_time)
    with pytest.raises(patch.PatchError, match="some file, No space left on device, nothing was changed"):
        operation(target)
    assert tree(site) == before


def test_interrupt_in_the_middle_changes_nothing(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(site)
    original = Swap.carry_out

    def interrupted(swap: Swap) -> None:
        original(swap)
        if swap.path.name == "made.py":
            raise KeyboardInterrupt

    monkeypatch.setattr(Swap, "carry_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        patch.apply(patch.find_target(site))
    assert tree(site) == before


def test_read_only_target(site: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree(site)

    def denied(swap: Swap) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(swap.path))

    monkeypatch.setattr(Swap, "prepare", denied)  # not chmod, which doesn't bind root
    line = refused("apply", "--target", site)
    assert str(site / "sglang") in line and "Permission denied" in line
    assert tree(site) == before


def test_failure_that_cannot_be_undone_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
) -> None:
    calls = iter(range(1000))
    original = os.replace

    def fail_from_the_second_time_on(source: Path, destination: Path) -> None:
        if next(calls) > 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source), None, str(destination))
        original(source, destination)

    monkeypatch.setattr(os, "replace", fail_from_the_second_time_on)
    assert "left patched by halves" in refused("apply", "--target", site)

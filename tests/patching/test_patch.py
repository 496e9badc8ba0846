"""The command: apply, check and revert, repeated and at once, and the targets it refuses."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from trees import FIRST, RELEASE, SECOND, checkout, contents, installed, tree, write

from sglang_mezo_plugin import patch
from sglang_mezo_plugin.patching import diffs


def test_apply_check_and_revert(site: Path, says: Callable[..., str]) -> None:
    stock = tree(site)
    assert says(1, "check", "--target", site).startswith("not patched: ")
    assert says(0, "apply", "--target", site) == f"applied 2 patches to 7 files in {site / 'sglang'}\n"
    expected = installed(
        {name: text for name, text in (RELEASE | FIRST | SECOND).items() if text is not None}
    )
    assert {name: text for name, text in contents(site).items() if name in expected} == expected
    assert contents(site).keys() - expected.keys() == {"sglang/_version.py"}
    assert not (site / "sglang" / "old").exists()
    assert says(0, "check", "--target", site) == f"patched: 2 patches, 7 files, {site / 'sglang'}\n"
    assert says(0, "revert", "--target", site).startswith("reverted ")
    assert tree(site) == stock


def test_repeating_changes_nothing(site: Path, says: Callable[..., str]) -> None:
    assert says(0, "revert", "--target", site).startswith("not applied, nothing changed")
    says(0, "apply", "--target", site)
    inodes = {path: path.stat().st_ino for path in site.rglob("*")}
    line = says(0, "apply", "--target", site)
    assert line.startswith("already applied") and line.endswith("nothing changed\n")
    assert {path: path.stat().st_ino for path in site.rglob("*")} == inodes


def test_checkout_gets_the_tests_too(tmp_path: Path, site: Path, says: Callable[..., str]) -> None:
    root = checkout(tmp_path / "checkout")
    stock = tree(root)
    assert "to 9 files" in says(0, "apply", "--target", root)
    expected = {name: text for name, text in (RELEASE | FIRST | SECOND).items() if text is not None}
    assert contents(root) == expected
    says(0, "revert", "--target", root)
    assert tree(root) == stock


def test_waits_for_another_run_and_outlives_its_crash(site: Path) -> None:
    """The lock dies with its process, whatever way that goes."""
    holder = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(site / "sglang")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"held\n"
        probe = os.open(site / "sglang", os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(probe, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.close(probe)
        process.kill()
    assert patch.apply(patch.find_target(site))


def test_two_runs_at_once(site: Path) -> None:
    """Of runs at the same time one applies, and the others find it done."""
    script = "import sys; from pathlib import Path; from sglang_mezo_plugin import patch;"
    script += "from sglang_mezo_plugin.patching import diffs;"
    script += "diffs.PATCH_FOLDERS = (Path(sys.argv[1]),); sys.exit(patch.main(sys.argv[2:]))"
    folder = str(diffs.PATCH_FOLDERS[0])
    command = [sys.executable, "-c", script, folder, "apply", "--target", str(site)]
    environment = os.environ | {"PYTHONPATH": str(Path(patch.__file__).parents[1])}
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=site)
        for _ in range(3)
    ]
    lines = sorted(run.communicate()[0].split()[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert lines == ["already", "already", "applied"]


@pytest.mark.parametrize("action", ["check", "apply", "revert"])
def test_edited_file(site: Path, refused: Callable[..., str], action: str) -> None:
    edited = site / "sglang/dos.txt"
    edited.write_bytes(b"one\ntwo\nthree\n")
    before = tree(site)
    assert f"{edited} has been edited" in refused(action, "--target", site)
    assert tree(site) == before


def test_missing_file(site: Path, refused: Callable[..., str]) -> None:
    (site / "sglang/dos.txt").unlink()
    assert f"{site / 'sglang/dos.txt'} is missing" in refused("apply", "--target", site)


def test_new_file_in_the_way(site: Path, refused: Callable[..., str]) -> None:
    write(site, {"sglang/new/deep/made.py": b"other\n"})
    assert f"{site / 'sglang/new/deep/made.py'} has been edited" in refused("apply", "--target", site)


@pytest.mark.parametrize("action", ["check", "apply", "revert"])
def test_half_applied(site: Path, refused: Callable[..., str], action: str) -> None:
    patch.apply(patch.find_target(site))
    write(site, {"sglang/dos.txt": RELEASE["python/sglang/dos.txt"]})
    before = tree(site)
    line = refused(action, "--target", site)
    assert "half applied" in line and str(site / "sglang/dos.txt") in line
    assert tree(site) == before


def test_state_between_two_patches(
    site: Path, series: Path, tmp_path: Path, refused: Callable[..., str], use_patches: Callable[[Path], None]
) -> None:
    (tmp_path / "first").mkdir()
    shutil.copy(next(series.glob("0001-*")), tmp_path / "first")
    use_patches(tmp_path / "first")
    patch.apply(patch.find_target(site))
    use_patches(series)
    assert "half applied" in refused("apply", "--target", site)


def test_unreadable_target(site: Path, refused: Callable[..., str]) -> None:
    (site / "sglang/_version.py").unlink()
    (site / "sglang/dos.txt").unlink()
    (site / "sglang/dos.txt").mkdir()  # can't be read by anybody
    assert f"{site / 'sglang/dos.txt'}, Is a directory" in refused("check", "--target", site)


def test_unknown_action(refused: Callable[..., str]) -> None:
    assert "unapply" in refused("unapply")

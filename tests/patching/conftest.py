"""The small SGLang installed, the series of its patches in use, and the command run on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trees import FIRST, RELEASE, SECOND, format_patches, installed, write

from sglang_mezo_plugin import patch
from sglang_mezo_plugin.patching import diffs


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("series")
    format_patches(root / "repository", root / "patches", RELEASE, FIRST, SECOND)
    return root / "patches"


@pytest.fixture
def use_patches(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    return lambda folder: monkeypatch.setattr(diffs, "PATCH_FOLDERS", (folder,))


@pytest.fixture
def site(tmp_path: Path, series: Path, use_patches: Callable[[Path], None]) -> Path:
    """A site-packages folder with the release, and the series in use."""
    use_patches(series)
    site = tmp_path / "site-packages"
    write(site, installed(RELEASE))
    write(site, {"sglang/_version.py": b"__version__: str\n__version__ = version = '0.5.23'\n"})
    (site / "sglang-0.5.23.dist-info").mkdir()
    return site


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: str | Path) -> str:
        """Runs the command, which has to refuse in one line; returns that line."""
        capsys.readouterr()
        assert patch.main([str(argument) for argument in arguments]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert (
            output.err.startswith("error: ") and output.err.count("\n") == 1 and output.err.count(": ") >= 2
        )
        return output.err

    return run


@pytest.fixture
def says(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(status: int, *arguments: str | Path) -> str:
        """Runs the command, which has to end with this status; returns the line it prints."""
        capsys.readouterr()
        assert patch.main([str(argument) for argument in arguments]) == status
        output = capsys.readouterr()
        assert output.err == "" and output.out.count("\n") == 1
        return output.out

    return run

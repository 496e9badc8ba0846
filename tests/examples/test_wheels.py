"""Wheels come through pip from a folder of this test, which stands for the package index."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import pytest
from wheels import Wheel, fetch

from sglang_mezo_plugin.errors import UserError


def make_wheel(folder: Path, content: str) -> Wheel:
    """Write a wheel that pip takes, and return it as it would be pinned."""
    wheel = Wheel("mezo_sample", "1.0", "")
    path = folder / wheel.filename
    with ZipFile(path, "w") as archive:
        archive.writestr("mezo_sample/data.txt", content)
        info = "mezo_sample-1.0.dist-info/"
        archive.writestr(info + "METADATA", "Metadata-Version: 2.1\nName: mezo-sample\nVersion: 1.0\n")
        archive.writestr(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(info + "RECORD", "")
    return Wheel(wheel.name, wheel.version, hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that pip looks into."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {"NO_INDEX": "1", "CONFIG_FILE": os.devnull, "FIND_LINKS": str(folder)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


def test_wheel_is_fetched_once(index: Path, tmp_path: Path) -> None:
    wheel, cache = make_wheel(index, "right"), tmp_path / "cache"
    (cache / f"{wheel.filename}.partial").mkdir(parents=True)  # of a killed run
    path = fetch(wheel, cache)
    assert list(cache.iterdir()) == [path] and path.read_bytes() == (index / wheel.filename).read_bytes()
    path.write_bytes(b"damaged")
    assert fetch(wheel, cache).read_bytes() == (index / wheel.filename).read_bytes()
    (index / wheel.filename).unlink()
    assert fetch(wheel, cache) == path
    path.unlink()
    with pytest.raises(UserError, match=r"cannot download mezo_sample-1.0-py3-none-any.whl: No matching"):
        fetch(wheel, cache)


def test_another_wheel_than_the_pinned_is_refused(index: Path, tmp_path: Path) -> None:
    wheel, cache = make_wheel(index, "right"), tmp_path / "cache"
    make_wheel(index, "wrong")
    with pytest.raises(UserError, match=f"SHA-256 [0-9a-f]{{64}}, not {wheel.sha256}"):
        fetch(wheel, cache)
    assert list(cache.iterdir()) == []


def test_two_processes_fetch_at_once(index: Path, tmp_path: Path) -> None:
    wheel, cache = make_wheel(index, "right"), tmp_path / "cache"
    with ThreadPoolExecutor() as pool:
        assert set(pool.map(fetch, [wheel] * 4, [cache] * 4)) == {cache / wheel.filename}
    assert list(cache.iterdir()) == [cache / wheel.filename]

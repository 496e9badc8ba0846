"""LoRA of a mirrored batch: torch, Triton's interpreter and a GPU give what exact arithmetic does."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lora_cases
import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget

from sglang_mezo_plugin.engine.lora import kernels as lora_kernels
from sglang_mezo_plugin.engine.lora.backend import add_lora_by_torch_

HOPPER = GPUTarget("cuda", 90, 32)
KERNELS = ("_low_kernel", "_add_kernel")


def test_interpreted_kernels(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    paths = [str(root), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    worker = [sys.executable, lora_cases.__file__, str(tmp_path / "results.pt")]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert lora_cases.wrong(torch.load(tmp_path / "results.pt"), lora_cases.INTERPRETED) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_kernels_on_a_gpu() -> None:
    results = lora_cases.run(lora_kernels.add_lora_, "cuda", lora_cases.DTYPES)
    assert lora_cases.wrong(results, lora_cases.DTYPES) == []


def test_torch() -> None:
    results = lora_cases.run(add_lora_by_torch_, "cpu", lora_cases.DTYPES)
    assert lora_cases.wrong(results, lora_cases.DTYPES) == []


class Driver:
    """As much of Triton's driver as compiling at a launch asks for."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, dict[str, str]]]:
    """Let launches compile for a GPU, without one; yield each kernel's PTX by hash, as it comes to be."""
    found: dict[str, dict[str, str]] = {name: {} for name in KERNELS}

    class Warmup:
        def __init__(self, name: str, kernel: Any) -> None:
            self.name, self.kernel = name, kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            assert 0 < grid[0] < 2**31 and all(size < 2**16 for size in grid[1:])
            return lambda *args, **options: self.keep(self.kernel.warmup(*args, grid=grid, **options))

        def keep(self, kernel: Any) -> None:
            found[self.name][kernel.hash] = kernel.asm["ptx"]

    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    kernels = [getattr(lora_kernels, name) for name in KERNELS]
    for name, kernel in zip(KERNELS, kernels, strict=True):
        monkeypatch.setattr(lora_kernels, name, Warmup(name, kernel))
        kernel.device_caches.clear()
    yield found
    for kernel in kernels:  # a GPU of another kind must not run this code
        kernel.device_caches.clear()


def launch(rows: int, copies: int = 2, rank: int = 8) -> None:
    """Launch what q and v of OPT-13B take."""
    hidden, meta = 5120, torch.device("meta")
    columns = lora_kernels.AdaptedColumns([(0, hidden, 0), (2 * hidden, 3 * hidden, 2 * rank)], rank, meta)
    out, x, a, b = (
        torch.empty(*shape, dtype=torch.float16, device=meta)
        for shape in (
            (copies * rows, 3 * hidden),
            (copies * rows, hidden),
            (copies, 3 * rank, hidden),
            (copies, 3 * hidden, rank),
        )
    )
    lora_kernels.add_lora_(out, x, a, b, columns, 2.0)


def test_kernels_move_16_bytes_at_a_time(compiled: dict[str, dict[str, str]]) -> None:
    launch(rows=4233)
    (low,), (add,) = (versions.values() for versions in compiled.values())
    copies = re.findall(r"cp\.async\.\w+\.shared\.global.*?, (0x\w+)", low)
    assert copies and set(copies) == {"0x10"}
    elements = lora_kernels.OUTPUT_TILE[0] * lora_kernels.OUTPUT_TILE[1] // (8 * 32)
    assert len(re.findall(r"ld\.global\.v4\.b32", add)) == elements // 8
    assert len(re.findall(r"st\.global\.v4\.b32", add)) == elements // 8


def test_a_batch_compiles_nothing_new_because_of_its_length(compiled: dict[str, dict[str, str]]) -> None:
    """But for the splits of the sum, of which there are few."""
    for rows in (2100, 2101, 2112, 4233, 65536, 2**20):
        launch(rows)
    for rows in (1, 16, 17, 400, 460, 512):
        launch(rows)
    splits = {lora_kernels.first_splits(2, rows, 5120) for rows in (1, 400, 460, 2100, 4233, 65536)}
    assert splits == {1, 2, 4, 8, 16}
    assert [len(versions) for versions in compiled.values()] == [2, len(splits)]


@pytest.mark.parametrize(
    ("copies", "rows", "depth", "tile", "splits"),
    [
        (2, 460, 5120, 32, 8),  # 240 programs of 640 numbers each
        (2, 4233, 5120, 64, 2),  # 268
        (2, 16384, 5120, 64, 1),
        (2, 1, 20480, 32, 16),
        (1, 460, 768, 32, 2),  # a range has 256 numbers or more
        (2, 10, 100, 32, 1),
    ],
)
def test_tiles(copies: int, rows: int, depth: int, tile: int, splits: int) -> None:
    assert lora_kernels.first_tile(copies * rows) == tile
    assert lora_kernels.first_splits(copies, rows, depth) == splits

"""The Triton kernels compile for a GPU, without one, to the code that they were written for.

The interpreter accepts more than the compiler does, and says nothing about speed.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import triton
from triton.backends.compiler import GPUTarget

from sglang_mezo_plugin import noise
from sglang_mezo_plugin.noise import Direction, Region, cuda

HOPPER = GPUTarget("cuda", 90, 32)
STRIDES = {"out_col": 1, "mirrored_col": 1, "weight_col": 1, "rows_step": 1}
BLOCKS = {"gaussian": 4, "rademacher": 128}


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if triton.knobs.runtime.interpret:
        pytest.skip("the interpreter compiles nothing")
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))


def compiled(kernel: Any, distribution: str, dtype: str, aligned: bool = True, **constants: Any) -> str:
    """Return a kernel's PTX, as `cuda.py` launches it for contiguous tensors."""
    constants |= {
        "GAUSSIAN": distribution == "gaussian",
        "BLOCK": BLOCKS[distribution],
        "ALIGNMENT": 16 if aligned else 1,
        "TILE": cuda.TILES[distribution],
    } | {name: one for name, one in STRIDES.items() if name in kernel.arg_names}
    types = dict.fromkeys(kernel.arg_names, "i32") | dict.fromkeys(constants, "constexpr")
    types |= {"table": "*i32", "rows": "*i64"} | dict.fromkeys(("coefficient", "decay"), "fp32")
    types |= dict.fromkeys(("out", "mirrored", "weight"), f"*{dtype}")
    divisible = ["out", "mirrored", "weight"]
    if aligned:
        divisible += ["out_row", "mirrored_row", "weight_row", "offset", "region_stride", "cols"]
    at = kernel.arg_names.index
    source = triton.compiler.ASTSource(
        kernel,
        {name: types[name] for name in kernel.arg_names},
        {(at(name),): value for name, value in constants.items()},
        {(at(name),): [["tt.divisibility", 16]] for name in divisible if name in kernel.arg_names},
    )
    return triton.compile(source, target=HOPPER, options={"enable_fp_fusion": False}).asm["ptx"]


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("distribution", BLOCKS)
@pytest.mark.parametrize("gathered", [False, True])
def test_pair_is_wide_and_evaluates_each_block_once(gathered: bool, distribution: str, dtype: str) -> None:
    ptx = compiled(cuda._perturb_kernel, distribution, dtype, MIRRORED=True, GATHERED=gathered)
    per_thread = cuda.TILES[distribution] // 128
    access = 16 // (4 if dtype == "fp32" else 2)
    assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) == per_thread // access
    assert len(re.findall(r"st\.global\.v4\.b32", ptx)) == 2 * per_thread // access
    # Two products a round for each block; a word that is the same for all blocks saves one of the first.
    blocks = max(per_thread // BLOCKS[distribution], 1)
    assert 19 * blocks <= len(re.findall(r"mul\.hi\.u32", ptx)) <= 20 * blocks
    assert "fma" not in ptx


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_the_other_kernels_compile(dtype: str) -> None:
    for kernel, constants in ((cuda._direction_kernel, {}), (cuda._accumulate_kernel, {"moves": 1})):
        assert "fma" not in compiled(kernel, "gaussian", dtype, **constants)


def test_arguments_of_one_become_constants() -> None:
    """Triton takes an integer argument of 1 for a constant, which has fewer methods than a number."""
    ones = dict.fromkeys(("offset", "region_stride", "cols", "tiles", "out_row"), 1)
    assert "st.global" in compiled(cuda._direction_kernel, "rademacher", "fp32", aligned=False, **ones)


KERNELS = ("_direction_kernel", "_perturb_kernel", "_accumulate_kernel")


class Driver:
    """As much of Triton's driver as compiling at a launch asks for."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Warmup:
    """A kernel whose launch compiles and does not run."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        assert 0 < grid[0] < 2**31
        return lambda *args, **options: self.kernel.warmup(*args, grid=grid, **options)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[int]]]:
    """Send the public functions to the kernels, without a GPU; yield how many versions each kernel has."""
    kernels = [getattr(cuda, name) for name in KERNELS]
    for name, kernel in zip(KERNELS, kernels, strict=True):
        monkeypatch.setattr(cuda, name, Warmup(kernel))
        kernel.device_caches.clear()
    monkeypatch.setattr(noise, "_backend", lambda tensor: cuda)
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    yield lambda: [sum(len(versions[0]) for versions in kernel.device_caches.values()) for kernel in kernels]
    for kernel in kernels:  # a GPU of another kind must not run this code
        kernel.device_caches.clear()


def test_what_changes_from_call_to_call_compiles_nothing_new(launches: Callable[[], list[int]]) -> None:
    """Seeds, parameters, coefficients, and the number of rows that are gathered."""
    weight, plus, minus = (torch.zeros(64, 128, dtype=torch.float16) for _ in range(3))
    for seed in (0, 1, 16, 2**31, 2**32 + 1, 2**64 - 1):
        direction, region = Direction(seed), Region.whole(f"layers.{seed}.weight", (64, 128))
        noise.direction_into(plus, direction, region)
        noise.perturb_pair_into(plus, minus, weight, direction, region, 1 / (seed + 1))
        noise.accumulate_(weight, [(direction, float(seed))], region, rounding_seed=seed)
    assert launches() == [1, 1, 1]
    for count in (1, 2, 16):
        rows = torch.arange(count)
        noise.gather_pair_into(plus[:count], minus[:count], weight, rows, direction, region, 1.0)
    assert launches() == [1, 2, 1]


def test_tensors_beyond_two_to_the_32_elements(launches: Callable[[], list[int]]) -> None:
    elements = 2**32 + 8
    cuda.direction_into(
        torch.empty(1, elements, dtype=torch.float16, device="meta"),
        Direction(1),
        Region.whole("w", (elements,)),
    )
    assert launches() == [1, 0, 0]


def test_gathering_reads_no_row_number_on_the_host(launches: Callable[[], list[int]]) -> None:
    """A meta tensor has no values to read; the table has more than 2**32 elements, the outputs few."""
    table = torch.empty(2**20, 2**13, dtype=torch.float16, device="meta")
    plus, minus, rows = table[:5], table[5:10], torch.empty(5, dtype=torch.int32, device="meta")
    region = Region.whole("w", table.shape)
    cuda.perturb_into(plus, table, Direction(1), region, 1.0, minus, rows)
    assert launches() == [0, 1, 0]

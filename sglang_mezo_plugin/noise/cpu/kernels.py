"""Noise on CPU tensors, by numba. Arguments have been checked by the package's public functions.

A tensor is cut into tiles of at most `TILE` neighbouring elements of a row, which threads share out. A tile
is widened to fp32, changed and narrowed again in small buffers, in loops plain enough for LLVM to turn into
vector instructions.

The threads are Python's, which sleep when there is nothing to do; the kernels hold no lock. Numba's own, and
torch's, would wait for each other in loops that keep the cores busy, and be many times slower.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from sglang_mezo_plugin.noise import philox
from sglang_mezo_plugin.noise.cpu import numbers, tiles
from sglang_mezo_plugin.noise.cpu.numbers import add_scaled, gaussian, rademacher, rounding_bits
from sglang_mezo_plugin.noise.cpu.tiles import FORMATS, load, store, store_stochastically
from sglang_mezo_plugin.noise.region import Region
from sglang_mezo_plugin.noise.step_numbers import StepNumbers
from sglang_mezo_plugin.noise.values import Distribution, Moves

TILE = 4096
TILES_A_THREAD = 16  # at least: half a millisecond, many times what it takes to wake one
FLOAT32 = FORMATS[torch.float32]
_EVERY_ROW = np.empty(0, np.int64)


class MultiTensor:
    """Several tensors: (planes [weight, plus, minus], region, whether decay applies) of each."""

    def __init__(
        self, entries: Sequence[tuple[list[torch.Tensor], Region, bool]], distribution: Distribution
    ) -> None:
        self._entries, self._distribution = entries, distribution

    def run(self, numbers: StepNumbers, moves: bool, writes: bool) -> None:
        """Move the weights by the numbers, if `moves`; then write the pairs, if `writes`."""
        seed, eps, taken, rounding_seed, decay = numbers.read()
        for (weight, *pair), region, decays in self._entries:
            if moves and taken is not None:
                self._move(weight, region, taken, rounding_seed, decay if decays else 1.0)
            if writes:
                _write_pair(*pair, weight, _EVERY_ROW, region, self._distribution, seed, eps)

    def _move(
        self, weight: torch.Tensor, region: Region, moves: Moves, rounding_seed: int, decay: float
    ) -> None:
        _run(
            _move,
            weight,
            _plane(weight),
            _place(region),
            np.array([seed for seed, _ in moves], np.uint64),
            self._distribution == "gaussian",
            np.array([coefficient for _, coefficient in moves], np.float32),
            np.uint64(rounding_seed),
            np.float32(decay),
        )


def gather_pair(
    plus: torch.Tensor,
    minus: torch.Tensor,
    weight: torch.Tensor,
    rows: torch.Tensor,
    region: Region,
    distribution: Distribution,
    numbers: StepNumbers,
) -> None:
    seed, eps, *_ = numbers.read()
    gathered = np.ascontiguousarray(rows.numpy(), np.int64)
    _write_pair(plus, minus, weight, gathered, region, distribution, seed, eps)


def _write_pair(
    plus: torch.Tensor,
    minus: torch.Tensor,
    weight: torch.Tensor,
    gathered: NDArray[np.int64],
    region: Region,
    distribution: Distribution,
    seed: int,
    eps: float,
) -> None:
    """Write weight + eps * z into plus and weight - eps * z into minus, from one z.

    gathered: row i of plus and of minus is that of row gathered[i] of weight and its region.
    """
    _run(
        _perturb,
        plus,
        _plane(plus),
        _plane(minus),
        _plane(weight),
        gathered,
        _place(region),
        np.uint64(seed),
        distribution == "gaussian",
        np.float32(eps),
    )


def _run(kernel: Callable[..., None], written: torch.Tensor, *arguments: Any) -> None:
    """Run a kernel on all tiles of the tensor that it writes, on as many threads as torch has."""
    tiles = len(written) * -(-written.shape[-1] // TILE)
    threads = max(1, min(torch.get_num_threads(), tiles // TILES_A_THREAD))
    if threads == 1:
        kernel(0, tiles, *arguments)
        return
    ends = [tiles * part // threads for part in range(threads + 1)]
    for done in [_pool(threads).submit(kernel, *part, *arguments) for part in pairwise(ends)]:
        done.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="noise")


def _kernel(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function that lets other threads run, and keep the result on disk.

    To see whether that is still good, numba looks at the function's own file only. So forget it if a file
    with what the function calls is newer.
    """
    kernel = njit(nogil=True, cache=True)(function)
    newest = max(Path(module.__file__).stat().st_mtime for module in (numbers, tiles, philox))
    for index in Path(kernel.stats.cache_path).glob(f"*.{function.__name__}-*.nbi"):
        with suppress(OSError):  # another process was faster, or the folder cannot be written
            if index.stat().st_mtime < newest:
                index.unlink()
    return kernel


@_kernel
def _perturb(begin, end, plus, minus, weight, gathered, place, seed, is_gaussian, eps):
    parameter, offset, _, cols, region_stride = place
    for tile in range(begin, end):
        row, col, count = _tile(cols, tile)
        source = gathered[row] if len(gathered) > 0 else row
        z = _noise(seed, is_gaussian, parameter, offset + source * region_stride + col, count)
        w = load(weight, source, col, count)
        store(plus, row, col, add_scaled(w, eps, z))
        store(minus, row, col, add_scaled(w, -eps, z))


@_kernel
def _move(begin, end, weight, place, seeds, is_gaussian, coefficients, rounding_seed, decay):
    parameter, offset, _, cols, region_stride = place
    for tile in range(begin, end):
        row, col, count = _tile(cols, tile)
        first = offset + row * region_stride + col
        total = decay * load(weight, row, col, count)
        for move in range(len(seeds)):
            z = _noise(seeds[move], is_gaussian, parameter, first, count)
            total = add_scaled(total, coefficients[move], z)
        if weight[3] == FLOAT32:
            store(weight, row, col, total)
        else:
            random = rounding_bits(rounding_seed, parameter, first, count)
            store_stochastically(weight, row, col, total, random)


@njit
def _tile(cols, tile):
    """Return a tile's row, its first column and its number of elements."""
    in_row = (cols + TILE - 1) // TILE
    col = tile % in_row * TILE
    return tile // in_row, col, min(TILE, cols - col)


@njit
def _noise(seed, is_gaussian, parameter, first, count):
    if is_gaussian:
        return gaussian(seed, parameter, first, count)
    return rademacher(seed, parameter, first, count)


def _place(region: Region) -> tuple[np.uint32, int, int, int, int]:
    return np.uint32(region.parameter), region.offset, region.rows, region.cols, region.row_stride


def _plane(tensor: torch.Tensor) -> tuple[NDArray, int, int, int]:
    """Describe a 2-D tensor to `tiles.py`, without a copy."""
    integers = tensor.detach().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)
    span = (
        sum((size - 1) * stride for size, stride in zip(integers.shape, integers.stride(), strict=True)) + 1
    )
    memory = integers.as_strided((span,), (1,)).numpy()
    return memory.view(f"u{memory.itemsize}"), *integers.stride(), FORMATS[tensor.dtype]

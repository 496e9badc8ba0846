"""Noise on GPU tensors, by Triton. Arguments have been checked by the package's public functions.

A program handles a tile: neighbouring elements of a row of the checkpoint's tensor, begun at a block of
Philox, so that one program evaluates each block (two, where it holds the ends of two rows). A tile may begin
before the region's first column and end after its last: those lanes are masked.
TRITON_INTERPRET=1, set before triton is imported, runs the kernels on CPU tensors.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from sglang_mezo_plugin.noise import philox
from sglang_mezo_plugin.noise.cuda_formats import round_stochastically, round_to_nearest, widen
from sglang_mezo_plugin.noise.cuda_noise import direction as direction_tile
from sglang_mezo_plugin.noise.cuda_noise import rounding_words
from sglang_mezo_plugin.noise.region import Direction, Region

# Elements. Gaussian: two blocks for each of a program's 128 threads. Rademacher: 32 blocks, each evaluated by
# four threads; a tile without that repetition would have 128 elements a thread, too many for its registers.
TILES = {"gaussian": 1024, "rademacher": 4096}
PER_CALL = ("seed_low", "seed_high", "parameter")  # not to be compiled for


def direction_into(out: torch.Tensor, direction: Direction, region: Region) -> None:
    _launch(
        _direction_kernel,
        out,
        region,
        direction.distribution,
        (out, *out.stride(), *_halves(direction.seed)),
    )


def perturb_into(
    out: torch.Tensor,
    weight: torch.Tensor,
    direction: Direction,
    region: Region,
    coefficient: float,
    mirrored: torch.Tensor | None = None,
    rows: torch.Tensor | None = None,
) -> None:
    """Write weight + coefficient * z into out and weight - coefficient * z, from one z, into mirrored.

    rows: if given, row i of out and of mirrored is that of row rows[i] of weight and its region.
    """
    second = out if mirrored is None else mirrored
    _launch(
        _perturb_kernel,
        out,
        region,
        direction.distribution,
        (
            *(out, *out.stride()),
            *(second, *second.stride()),
            *(weight, *weight.stride()),
            *((weight, 0) if rows is None else (rows, *rows.stride())),
            *_halves(direction.seed),
            float(coefficient),
        ),
        MIRRORED=mirrored is not None,
        GATHERED=rows is not None,
    )


def accumulate_(
    weight: torch.Tensor,
    moves: Sequence[tuple[Direction, float]],
    region: Region,
    rounding_seed: int,
    decay: float,
) -> None:
    distribution = moves[0][0].distribution if moves else "gaussian"
    stream = torch.cuda.current_stream(weight.device).cuda_stream if weight.is_cuda else 0
    table = _table(tuple(moves), weight.device, stream)
    _launch(
        _accumulate_kernel,
        weight,
        region,
        distribution,
        (weight, *weight.stride(), table, len(moves), *_halves(rounding_seed), float(decay)),
    )


def _launch(
    kernel: Any, out: torch.Tensor, region: Region, distribution: str, arguments: tuple, **options: bool
) -> None:
    """Run a kernel on the tiles of each row of out, which it writes."""
    gaussian = distribution == "gaussian"
    block = philox.GAUSSIAN_BLOCK if gaussian else philox.RADEMACHER_BLOCK
    steps = (region.offset, region.row_stride) if region.rows > 1 else (region.offset,)
    lead = 0 if all(step % block == 0 for step in steps) else block - 1
    tile = TILES[distribution]
    tiles = triton.cdiv(region.cols + lead, tile)
    with torch.cuda.device_of(out):
        kernel[(out.shape[0] * tiles,)](
            *arguments,
            _signed(region.parameter),
            region.offset,
            region.row_stride,
            region.cols,
            tiles,
            GAUSSIAN=gaussian,
            BLOCK=block,
            # What divides every row's first element and its length: wide loads and stores need to know.
            ALIGNMENT=math.gcd(*steps, region.cols, 16),
            TILE=tile,
            enable_fp_fusion=False,
            **options,
        )


@functools.lru_cache(maxsize=8)
def _table(moves: tuple[tuple[Direction, float], ...], device: torch.device, stream: int) -> torch.Tensor:
    """Return moves as int32 [moves, 3] on the device: the seed's halves and the coefficient's bits.

    Kept, since a step calls `accumulate_` for each parameter; per stream, since the copy is ordered there.
    """
    rows = [(*_halves(direction.seed), int(np.float32(c).view(np.int32))) for direction, c in moves]
    return torch.tensor(rows, dtype=torch.int32).to(device, non_blocking=True)


def _halves(seed: int) -> tuple[int, int]:
    return _signed(seed & 0xFFFFFFFF), _signed(seed >> 32)


def _signed(word: int) -> int:
    """Return a 32-bit word as the int32 of the same bits: so Triton compiles for one type of argument."""
    return word - (1 << 32) if word >> 31 else word


@triton.jit
def _row(tiles):
    """Return this program's row of what is written."""
    return (tl.program_id(0) // tiles).to(tl.int64)


@triton.jit
def _tile(
    row, offset, region_stride, cols, tiles,
    BLOCK: tl.constexpr, ALIGNMENT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return this program's first element in the checkpoint, first column, and mask [TILE].

    row: the region's, int64.
    """
    start = (tl.program_id(0) % tiles).to(tl.int64) * TILE
    base = row * region_stride + offset
    lead = tl.multiple_of(base & (BLOCK - 1), ALIGNMENT)
    below = tl.multiple_of(tl.maximum(lead - start, 0).to(tl.int32), ALIGNMENT)
    above = tl.multiple_of(tl.minimum(cols + lead - start, TILE).to(tl.int32), ALIGNMENT)
    lane = tl.arange(0, TILE)
    return base - lead + start, start - lead, (lane >= below) & (lane < above)


@triton.jit(do_not_specialize=PER_CALL)
def _direction_kernel(
    out, out_row, out_col, seed_low, seed_high, parameter, offset, region_stride, cols, tiles,
    GAUSSIAN: tl.constexpr, BLOCK: tl.constexpr, ALIGNMENT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = _row(tiles)
    first, col, mask = _tile(row, offset, region_stride, cols, tiles, BLOCK, ALIGNMENT, TILE)
    z = direction_tile(seed_low, seed_high, parameter, first, TILE, GAUSSIAN)
    lane = tl.arange(0, TILE)
    at = out + row * out_row + col * out_col + lane * out_col
    tl.store(at, round_to_nearest(z, out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=PER_CALL)
def _perturb_kernel(
    out, out_row, out_col, mirrored, mirrored_row, mirrored_col, weight, weight_row, weight_col,
    rows, rows_step, seed_low, seed_high, coefficient, parameter, offset, region_stride, cols, tiles,
    GAUSSIAN: tl.constexpr, BLOCK: tl.constexpr, ALIGNMENT: tl.constexpr, TILE: tl.constexpr,
    MIRRORED: tl.constexpr, GATHERED: tl.constexpr,
):  # fmt: skip
    row = _row(tiles)
    source = tl.load(rows + row * rows_step).to(tl.int64) if GATHERED else row
    first, col, mask = _tile(source, offset, region_stride, cols, tiles, BLOCK, ALIGNMENT, TILE)
    lane = tl.arange(0, TILE)
    w = widen(tl.load(weight + source * weight_row + col * weight_col + lane * weight_col, mask))
    move = coefficient * direction_tile(seed_low, seed_high, parameter, first, TILE, GAUSSIAN)
    at = out + row * out_row + col * out_col + lane * out_col
    tl.store(at, round_to_nearest(w + move, out.dtype.element_ty), mask)
    if MIRRORED:
        at = mirrored + row * mirrored_row + col * mirrored_col + lane * mirrored_col
        tl.store(at, round_to_nearest(w - move, mirrored.dtype.element_ty), mask)


@triton.jit(do_not_specialize=PER_CALL)
def _accumulate_kernel(
    weight, weight_row, weight_col, table, moves, seed_low, seed_high, decay,
    parameter, offset, region_stride, cols, tiles,
    GAUSSIAN: tl.constexpr, BLOCK: tl.constexpr, ALIGNMENT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = _row(tiles)
    first, col, mask = _tile(row, offset, region_stride, cols, tiles, BLOCK, ALIGNMENT, TILE)
    total = tl.zeros([TILE], tl.float32)
    for move in range(moves):
        low = tl.load(table + 3 * move)
        high = tl.load(table + 3 * move + 1)
        coefficient = tl.load(table + 3 * move + 2).to(tl.float32, bitcast=True)
        total += coefficient * direction_tile(low, high, parameter, first, TILE, GAUSSIAN)
    lane = tl.arange(0, TILE)
    at = weight + row * weight_row + col * weight_col + lane * weight_col
    total += decay * widen(tl.load(at, mask))
    if weight.dtype.element_ty == tl.float32:
        tl.store(at, total, mask)
    else:
        words = rounding_words(seed_low, seed_high, parameter, first, TILE)
        tl.store(at, round_stochastically(total, words, weight.dtype.element_ty), mask)

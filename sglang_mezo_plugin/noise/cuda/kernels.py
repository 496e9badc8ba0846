"""Noise on GPU tensors, by Triton. Arguments have been checked by the package's public functions.

A program handles a tile: neighbouring elements of a row of the checkpoint's tensor, begun at a multiple of
eight. A tile may begin before the region's first column and end after its last: those lanes are masked.
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

from sglang_mezo_plugin.noise import step_table
from sglang_mezo_plugin.noise.cuda.formats import round_stochastically
from sglang_mezo_plugin.noise.cuda.numbers import direction as direction_tile
from sglang_mezo_plugin.noise.cuda.numbers import rounding_bits
from sglang_mezo_plugin.noise.region import Direction, Region
from sglang_mezo_plugin.noise.step_table import StepTable

TILE = 2048  # elements of a program: sixteen for each of its 128 threads, in two groups of eight
GROUP = 8  # neighbours that one thread makes, so that tiles begin at multiples of it
TILE_SIZE = tl.constexpr(TILE)
TABLE_SEED, TABLE_EPS = tl.constexpr(step_table.SEED), tl.constexpr(step_table.EPS)
PER_CALL = ("seed_low", "seed_high", "parameter")  # not to be compiled for


def direction_into(out: torch.Tensor, direction: Direction, region: Region) -> None:
    _launch(
        _direction_kernel,
        out,
        region,
        direction.distribution,
        (out, *out.stride(), *halves(direction.seed)),
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
            *(weight, *halves(direction.seed), float(coefficient)),
        ),
        MIRRORED=mirrored is not None,
        GATHERED=rows is not None,
        TABLED=False,
    )


def gather_from(
    table: StepTable,
    out: torch.Tensor,
    mirrored: torch.Tensor,
    weight: torch.Tensor,
    rows: torch.Tensor,
    region: Region,
) -> None:
    """Do what `perturb_into` does with `mirrored` and `rows`, with the seed and eps of a table."""
    planes = (value for plane in (out, mirrored, weight, rows) for value in (plane, *plane.stride()))
    _launch(
        _perturb_kernel,
        out,
        region,
        table.distribution,
        (*planes, table.words, 0, 0, 0.0),
        MIRRORED=True,
        GATHERED=True,
        TABLED=True,
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
    table = moves_table(tuple(moves), weight.device, stream)
    _launch(
        _accumulate_kernel,
        weight,
        region,
        distribution,
        (weight, *weight.stride(), table, len(moves), *halves(rounding_seed), float(decay)),
    )


def _launch(
    kernel: Any, out: torch.Tensor, region: Region, distribution: str, arguments: tuple, **options: bool
) -> None:
    """Run a kernel on the tiles of each row of out, which it writes."""
    alignment, tiles = layout(region)
    with torch.cuda.device_of(out):
        kernel[(out.shape[0] * tiles,)](
            *arguments,
            signed(region.parameter),
            region.offset,
            region.row_stride,
            region.cols,
            tiles,
            GAUSSIAN=distribution == "gaussian",
            ALIGNMENT=alignment,
            enable_fp_fusion=False,
            **options,
        )


def layout(region: Region) -> tuple[int, int]:
    """Return what divides every row's first element and length, as wide access needs, and a row's tiles."""
    steps = (region.offset, region.row_stride) if region.rows > 1 else (region.offset,)
    lead = 0 if all(step % GROUP == 0 for step in steps) else GROUP - 1
    return math.gcd(*steps, region.cols, 16), triton.cdiv(region.cols + lead, TILE)


@functools.lru_cache(maxsize=8)
def moves_table(
    moves: tuple[tuple[Direction, float], ...], device: torch.device, stream: int
) -> torch.Tensor:
    """Return moves as int32 [moves, 3] on the device: the seed's halves and the coefficient's bits.

    Kept, since a step calls `accumulate_` for each parameter; per stream, since the copy is ordered there.
    """
    rows = [(*halves(direction.seed), int(np.float32(c).view(np.int32))) for direction, c in moves]
    return torch.tensor(rows, dtype=torch.int32).to(device, non_blocking=True)


def halves(seed: int) -> tuple[int, int]:
    return signed(seed & 0xFFFFFFFF), signed(seed >> 32)


def signed(word: int) -> int:
    """Return a 32-bit word as the int32 of the same bits: so Triton compiles for one type of argument."""
    return word - (1 << 32) if word >> 31 else word


@triton.jit
def tile_at(row, tile, offset, region_stride, cols, ALIGNMENT: tl.constexpr):
    """Return a tile's first element in the checkpoint, first column, and mask [TILE_SIZE].

    row: the region's, int64. tile: its number in the row.
    """
    start = tile.to(tl.int64) * TILE_SIZE
    base = row * region_stride + offset
    lead = tl.multiple_of(base & 7, ALIGNMENT)
    below = tl.multiple_of(tl.maximum(lead - start, 0).to(tl.int32), ALIGNMENT)
    above = tl.multiple_of(tl.minimum(cols + lead - start, TILE_SIZE).to(tl.int32), ALIGNMENT)
    lane = tl.arange(0, TILE_SIZE)
    return base - lead + start, start - lead, (lane >= below) & (lane < above)


@triton.jit
def moved(
    w, first, table, moves, seed_low, seed_high, decay, parameter, DTYPE: tl.constexpr, GAUSSIAN: tl.constexpr
):
    """Return decay * w + the sum of all moves, as a weight of a dtype takes it.

    The sum begins with the weight, and so has its layout over threads: noise comes in that one too.
    """
    total = decay * w.to(tl.float32)
    for move in range(moves):
        low = tl.load(table + 3 * move)
        high = tl.load(table + 3 * move + 1)
        coefficient = tl.load(table + 3 * move + 2).to(tl.float32, bitcast=True)
        z = direction_tile(low, high, parameter, first, TILE_SIZE, GAUSSIAN)
        total = tl.fma(z, coefficient, total)
    if DTYPE != tl.float32:  # noqa: SIM300
        random = rounding_bits(seed_low, seed_high, parameter, first, TILE_SIZE)
        total = round_stochastically(total, random, DTYPE)
    return total


@triton.jit
def probe_words(words):
    """Return the direction's seed, in halves, and eps, of the words of a `StepTable`."""
    eps = tl.load(words + TABLE_EPS).to(tl.float32, bitcast=True)
    return tl.load(words + TABLE_SEED), tl.load(words + TABLE_SEED + 1), eps


@triton.jit(do_not_specialize=PER_CALL)
def _direction_kernel(
    out, out_row, out_col, seed_low, seed_high, parameter, offset, region_stride, cols, tiles,
    GAUSSIAN: tl.constexpr, ALIGNMENT: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // tiles).to(tl.int64)
    first, col, mask = tile_at(row, tl.program_id(0) % tiles, offset, region_stride, cols, ALIGNMENT)
    z = direction_tile(seed_low, seed_high, parameter, first, TILE_SIZE, GAUSSIAN)
    lane = tl.arange(0, TILE_SIZE)
    at = out + row * out_row + col * out_col + lane * out_col
    tl.store(at, z.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=PER_CALL)
def _perturb_kernel(
    out, out_row, out_col, mirrored, mirrored_row, mirrored_col, weight, weight_row, weight_col,
    rows, rows_step, words, seed_low, seed_high, coefficient,
    parameter, offset, region_stride, cols, tiles,
    GAUSSIAN: tl.constexpr, ALIGNMENT: tl.constexpr, MIRRORED: tl.constexpr, GATHERED: tl.constexpr,
    TABLED: tl.constexpr,
):  # fmt: skip
    if TABLED:
        seed_low, seed_high, coefficient = probe_words(words)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    source = tl.load(rows + row * rows_step).to(tl.int64) if GATHERED else row
    first, col, mask = tile_at(source, tl.program_id(0) % tiles, offset, region_stride, cols, ALIGNMENT)
    lane = tl.arange(0, TILE_SIZE)
    w = tl.load(weight + source * weight_row + col * weight_col + lane * weight_col, mask).to(tl.float32)
    z = direction_tile(seed_low, seed_high, parameter, first, TILE_SIZE, GAUSSIAN)
    at = out + row * out_row + col * out_col + lane * out_col
    tl.store(at, tl.fma(z, coefficient, w).to(out.dtype.element_ty), mask)
    if MIRRORED:
        at = mirrored + row * mirrored_row + col * mirrored_col + lane * mirrored_col
        tl.store(at, tl.fma(z, -coefficient, w).to(mirrored.dtype.element_ty), mask)


@triton.jit(do_not_specialize=[*PER_CALL, "moves"])
def _accumulate_kernel(
    weight, weight_row, weight_col, table, moves, seed_low, seed_high, decay,
    parameter, offset, region_stride, cols, tiles,
    GAUSSIAN: tl.constexpr, ALIGNMENT: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0) // tiles).to(tl.int64)
    first, col, mask = tile_at(row, tl.program_id(0) % tiles, offset, region_stride, cols, ALIGNMENT)
    lane = tl.arange(0, TILE_SIZE)
    at = weight + row * weight_row + col * weight_col + lane * weight_col
    w = tl.load(at, mask)
    w = moved(
        w, first, table, moves, seed_low, seed_high, decay, parameter, weight.dtype.element_ty, GAUSSIAN
    )
    tl.store(at, w, mask)

"""Tiles of GPU tensors, in Triton: what both kernels do with one.

A program handles a tile: neighbouring elements of a row of the checkpoint's tensor, begun at a multiple of
eight. A tile may begin before the region's first column and end after its last: those lanes are masked.
Arguments have been checked by the package's public functions.
TRITON_INTERPRET=1, set before triton is imported, runs the kernels on CPU tensors.
"""

import math

import triton
import triton.language as tl

from sglang_mezo_plugin.noise import step_numbers
from sglang_mezo_plugin.noise.cuda.formats import round_stochastically
from sglang_mezo_plugin.noise.cuda.numbers import direction as direction_tile
from sglang_mezo_plugin.noise.cuda.numbers import rounding_bits
from sglang_mezo_plugin.noise.region import Region

TILE = 2048  # elements of a program: sixteen for each of its 128 threads, in two groups of eight
GROUP = 8  # neighbours that one thread makes, so that tiles begin at multiples of it
TILE_SIZE = tl.constexpr(TILE)
SEED_WORD, EPS_WORD = tl.constexpr(step_numbers.SEED), tl.constexpr(step_numbers.EPS)
PER_CALL = ("parameter",)  # not to be compiled for


def layout(region: Region) -> tuple[int, int]:
    """Return what divides every row's first element and length, as wide access needs, and a row's tiles."""
    steps = (region.offset, region.row_stride) if region.rows > 1 else (region.offset,)
    lead = 0 if all(step % GROUP == 0 for step in steps) else GROUP - 1
    return math.gcd(*steps, region.cols, 16), triton.cdiv(region.cols + lead, TILE)


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
    w,
    first,
    moves_at,
    moves,
    seed_low,
    seed_high,
    decay,
    parameter,
    DTYPE: tl.constexpr,
    GAUSSIAN: tl.constexpr,
):
    """Return decay * w + the sum of all moves, as a weight of a dtype takes it.

    moves_at: where the words of each move are: its seed and its coefficient's bits. moves: how many.

    The sum begins with the weight, and so has its layout over threads: noise comes in that one too.
    """
    total = decay * w.to(tl.float32)
    for move in range(moves):
        low = tl.load(moves_at + 3 * move)
        high = tl.load(moves_at + 3 * move + 1)
        coefficient = tl.load(moves_at + 3 * move + 2).to(tl.float32, bitcast=True)
        z = direction_tile(low, high, parameter, first, TILE_SIZE, GAUSSIAN)
        total = tl.fma(z, coefficient, total)
    if DTYPE != tl.float32:  # noqa: SIM300
        random = rounding_bits(seed_low, seed_high, parameter, first, TILE_SIZE)
        total = round_stochastically(total, random, DTYPE)
    return total


@triton.jit
def probe_words(words):
    """Return the direction's seed, in halves, and eps, of the words of `StepNumbers`."""
    eps = tl.load(words + EPS_WORD).to(tl.float32, bitcast=True)
    return tl.load(words + SEED_WORD), tl.load(words + SEED_WORD + 1), eps

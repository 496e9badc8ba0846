"""LoRA for a mirrored batch on a GPU: two launches a layer, each bound by the memory that it must touch.

A batch is `copies` equal stretches of rows, and stretch i takes slot i of A and B. The first kernel reads a
layer's input once, for all stacked parts of A; the second adds the product with B to those columns of the
output that are adapted, and touches no others. There are no atomics: the same input gives the same bits.
TRITON_INTERPRET=1, set before triton is imported, runs the kernels on CPU tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

# Rows and columns of output a program: few enough for its registers that four share a multiprocessor, which
# then has the 64 KiB on their way that the memory's full speed asks for.
OUTPUT_TILE = (32, 256)
# Twice the multiprocessors of an H200: as many loads on their way, and an even load.
PROGRAMS = 264
PER_BATCH = ("rows", "row_tiles", "all_rows", "steps")  # not to be compiled for


class AdaptedColumns:
    """The columns of a layer's output that an adapter changes.

    parts: of each adapted part its first column, the column after its last, and its first row of A.
    rank: rows of A, and columns of B, that belong to a part.
    """

    def __init__(self, parts: Sequence[tuple[int, int, int]], rank: int, device: torch.device) -> None:
        self.parts, self.rank = tuple(parts), rank
        width = OUTPUT_TILE[1]
        tiles = [(column, stop, row) for start, stop, row in parts for column in range(start, stop, width)]
        self.tiles = torch.tensor(tiles, dtype=torch.int32).to(device)
        # What divides every tile's first and last column: wide loads and stores need to know.
        self.alignment = math.gcd(16, *(bound for start, stop, _ in parts for bound in (start, stop)))


def add_lora_(
    out: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    columns: AdaptedColumns,
    scaling: float,
) -> None:
    """Add scaling * (x A^T) B^T to the adapted columns of out, in place.

    x: [copies * rows, in]. a: [copies, rows of A, in]. b: [copies, out, rank or more]. out: [copies * rows,
    out]. All of one dtype, fp32, fp16 or bf16, and contiguous in the last dimension. Sums are formed in
    fp32; x A^T is rounded to the dtype in between.
    """
    copies, width, depth = a.shape
    rows = len(x) // copies
    low = torch.empty(first_splits(copies, rows, depth), len(x), width, dtype=torch.float32, device=x.device)
    tile_rows, tile_depth, tile_width = first_tile(len(x)), 128 // x.element_size(), min(_padded(width), 64)
    row_tiles = triton.cdiv(rows, tile_rows)
    _low_kernel[(copies * row_tiles, len(low), triton.cdiv(width, tile_width))](
        *(x, x.stride(0), a, a.stride(0), a.stride(1), low, rows, row_tiles, len(x)),
        *(triton.cdiv(depth, len(low) * tile_depth), depth, width),
        TILE_ROWS=tile_rows,
        TILE_DEPTH=tile_depth,
        TILE_WIDTH=tile_width,
        num_warps=4,
        num_stages=4,
    )
    tile_rows, tile_columns = OUTPUT_TILE
    row_tiles = triton.cdiv(rows, tile_rows)
    _add_kernel[(copies * row_tiles * len(columns.tiles),)](
        *(out, out.stride(0), low, b, b.stride(0), b.stride(1), columns.tiles, len(columns.tiles)),
        *(rows, row_tiles, len(x), width, columns.rank, float(scaling)),
        SPLITS=len(low),
        ALIGNMENT=columns.alignment,
        TILE_ROWS=tile_rows,
        TILE_COLUMNS=tile_columns,
        TILE_RANK=_padded(columns.rank),
        num_warps=8,
    )


# What follows is chosen by the shape alone. Bits depend on it, and what a tuner measures would change them
# from run to run.


def first_tile(all_rows: int) -> int:
    """Return rows a program of the first kernel: each reads all of A, so many where there are many."""
    return 64 if all_rows >= 4096 else 32


def first_splits(copies: int, rows: int, depth: int) -> int:
    """Return into how many ranges, each summed by programs of its own, the first kernel splits `depth`.

    So many that the device is full, but a range is worth a program's while. A power of two: the second
    kernel, which adds up the ranges, is compiled for each.
    """
    tiles = copies * triton.cdiv(rows, first_tile(copies * rows))
    wanted = min(triton.cdiv(PROGRAMS, tiles), depth // 256, 16)
    return 1 << (max(wanted, 1).bit_length() - 1)


def _padded(size: int) -> int:
    """Return the power of two that holds a dimension of a dot product: 16 at least, for tensor cores."""
    return max(16, triton.next_power_of_2(size))


@triton.jit(do_not_specialize=PER_BATCH)
def _low_kernel(
    x, x_row, a, a_copy, a_row, low, rows, row_tiles, all_rows, steps, depth, width,
    TILE_ROWS: tl.constexpr, TILE_DEPTH: tl.constexpr, TILE_WIDTH: tl.constexpr,
):  # fmt: skip
    """low[split, row, :] = x[row, range] @ a[copy, :, range]^T, for one range of `depth`."""
    copy = (tl.program_id(0) // row_tiles).to(tl.int64)
    row = (tl.program_id(0) % row_tiles) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    split = tl.program_id(1)
    column = tl.program_id(2) * TILE_WIDTH + tl.arange(0, TILE_WIDTH)
    number = split * steps * TILE_DEPTH + tl.arange(0, TILE_DEPTH)
    in_row, in_column = row < rows, column < width
    row += copy * rows
    x_at = x + row[:, None] * x_row + number[None, :]
    a_at = a + copy * a_copy + column[None, :] * a_row + number[:, None]
    total = tl.zeros([TILE_ROWS, TILE_WIDTH], tl.float32)
    for step in range(steps):
        in_range = number + step * TILE_DEPTH < depth
        x_tile = tl.load(x_at, in_row[:, None] & in_range[None, :], 0.0)
        a_tile = tl.load(a_at, in_column[None, :] & in_range[:, None], 0.0)
        total = tl.dot(x_tile, a_tile, total, input_precision="ieee")
        x_at += TILE_DEPTH
        a_at += TILE_DEPTH
    at = low + (split * all_rows + row)[:, None] * width + column[None, :]
    tl.store(at, total, in_row[:, None] & in_column[None, :])


@triton.jit(do_not_specialize=PER_BATCH)
def _add_kernel(
    out, out_row, low, b, b_copy, b_row, tiles, column_tiles, rows, row_tiles, all_rows, width, rank, scaling,
    SPLITS: tl.constexpr, ALIGNMENT: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr, TILE_RANK: tl.constexpr,
):  # fmt: skip
    """out[row, tile] += scaling * (sum of low[:, row, part's columns]) @ b[copy, tile, :]^T."""
    tile = tiles + 3 * (tl.program_id(0) % column_tiles)
    column = tl.multiple_of(tl.load(tile), ALIGNMENT) + tl.arange(0, TILE_COLUMNS)
    stop = tl.multiple_of(tl.load(tile + 1), ALIGNMENT)
    number = tl.arange(0, TILE_RANK)
    row_tile = tl.program_id(0) // column_tiles
    copy = (row_tile // row_tiles).to(tl.int64)
    row = (row_tile % row_tiles) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    in_row, in_column, in_rank = row < rows, column < stop, number < rank
    row += copy * rows
    out_at = out + row[:, None] * out_row + column[None, :]
    in_out = in_row[:, None] & in_column[None, :]
    before = tl.load(out_at, in_out, 0.0)
    b_at = b + copy * b_copy + column[None, :] * b_row + number[:, None]
    b_tile = tl.load(b_at, in_rank[:, None] & in_column[None, :], 0.0)
    low_at = low + tl.load(tile + 2) + number[None, :]
    in_low = in_row[:, None] & in_rank[None, :]
    sums = tl.load(low_at + row[:, None] * width, in_low, 0.0)
    for split in tl.static_range(1, SPLITS):
        sums += tl.load(low_at + (split * all_rows + row)[:, None] * width, in_low, 0.0)
    moved = tl.dot(sums.to(b_tile.dtype), b_tile, input_precision="ieee")
    tl.store(out_at, (before.to(tl.float32) + scaling * moved).to(before.dtype), in_out)

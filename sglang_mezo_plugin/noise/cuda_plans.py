"""One launch for many GPU tensors: their addresses, strides and regions lie in a table on the device.

A step touches hundreds of tensors, most of them small. A launch for each would cost more than its work.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from sglang_mezo_plugin.noise.cuda import (
    PER_CALL,
    TILE_SIZE,
    direction_tile,
    halves,
    layout,
    move_tile,
    moves_table,
    signed,
    tile_at,
)
from sglang_mezo_plugin.noise.region import Direction, Region

Entry = tuple[list[torch.Tensor], Region, bool]  # 2-D planes, the weight last; whether decay applies

TILES_A_PROGRAM = 4  # what looking an entry up costs is shared by so many
WIDTH = 16  # int64 words of an entry
# Three words for each plane: address, row stride, column stride. Then the region's numbers.
PLANES = tl.constexpr(0)
PARAMETER, OFFSET, STRIDE, COLS, TILES, LAST, DECAYS = (tl.constexpr(9 + field) for field in range(7))
ENTRY_WIDTH, PER_PROGRAM = tl.constexpr(WIDTH), tl.constexpr(TILES_A_PROGRAM)
ACCESS = 16  # bytes that a thread reads or writes at once, where addresses allow


def pair_writer(entries: Sequence[Entry]) -> Callable[[Direction, float], None]:
    """Return a function of (direction, eps) that writes [plus, minus, weight] of every entry."""
    table = _Table(entries)

    def write(direction: Direction, eps: float) -> None:
        table.launch(_pair_kernel, direction.distribution, *halves(direction.seed), float(eps))

    return write


def mover(
    entries: Sequence[Entry],
) -> Callable[[Sequence[tuple[Direction, float]], int, float], None]:
    """Return a function of (moves, rounding_seed, decay) that moves [weight] of every entry."""
    table = _Table(entries)

    def move(moves: Sequence[tuple[Direction, float]], rounding_seed: int, decay: float) -> None:
        stream = torch.cuda.current_stream(table.device).cuda_stream if table.device.type == "cuda" else 0
        distribution = moves[0][0].distribution if moves else "gaussian"
        words = moves_table(tuple(moves), table.device, stream)
        table.launch(_move_kernel, distribution, words, len(moves), *halves(rounding_seed), float(decay))

    return move


class _Table:
    """Entries on the device, and what all of them have in common, for which kernels are compiled."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        weight = entries[0][0][-1]
        self.device = weight.device
        rows, starts, alignment, wide, programs = [], [], 16, True, 0
        for planes, region, decays in entries:
            divisor, tiles = layout(region)
            alignment = math.gcd(alignment, divisor)
            wide = wide and all(map(_is_wide, planes))
            row = [word for plane in planes for word in (plane.data_ptr(), *plane.stride())]
            row += [0] * (9 - len(row))
            row += [signed(region.parameter), region.offset, region.row_stride, region.cols]
            rows.append([*row, tiles, tiles * region.rows, decays])
            starts.append(programs)
            programs += -(-tiles * region.rows // TILES_A_PROGRAM)
        padding = [programs] * (triton.next_power_of_2(len(starts)) - len(starts))
        self._rows = torch.tensor(rows, dtype=torch.int64, device=self.device)
        self._starts = torch.tensor([*starts, *padding], dtype=torch.int32, device=self.device)
        self._grid = (programs,)
        # Kernels take the tensors' types from these arguments, and their addresses from the table.
        self._samples = [plane.as_strided((1,), (1,)) for plane in entries[0][0]]
        self._constants = {"ENTRIES": len(self._starts), "ALIGNMENT": alignment, "WIDE": wide}

    def launch(self, kernel: Any, distribution: str, *arguments: Any) -> None:
        with torch.cuda.device_of(self._rows):
            kernel[self._grid](
                *self._samples,
                self._rows,
                self._starts,
                *arguments,
                GAUSSIAN=distribution == "gaussian",
                **self._constants,
                enable_fp_fusion=False,
                num_stages=1,
            )


def _is_wide(plane: torch.Tensor) -> bool:
    """Whether each row begins where a wide access may, and its elements follow one another."""
    size = plane.element_size()
    aligned = plane.data_ptr() % ACCESS == 0 and (len(plane) == 1 or plane.stride(0) * size % ACCESS == 0)
    return aligned and plane.stride(1) == 1


@triton.jit
def _entry(table, starts, ENTRIES: tl.constexpr):
    """Return this program's entry, and its number among the entry's programs."""
    program = tl.program_id(0)
    first = tl.load(starts + tl.arange(0, ENTRIES))
    index = tl.sum((first <= program).to(tl.int32)) - 1
    return table + index * ENTRY_WIDTH, program - tl.load(starts + index)


@triton.jit
def _plane(entry, PLANE: tl.constexpr, sample, WIDE: tl.constexpr):
    """Return a plane's first address and its strides, with what the compiler may know of them."""
    start = tl.load(entry + PLANES + 3 * PLANE).to(sample.dtype)
    row_stride, col_stride = tl.load(entry + PLANES + 3 * PLANE + 1), tl.load(entry + PLANES + 3 * PLANE + 2)
    if WIDE:
        start, row_stride, col_stride = tl.multiple_of(start, 16), tl.multiple_of(row_stride, 16), 1
    return start, row_stride, col_stride


@triton.jit
def _tiles(entry, program):
    """Return the region's numbers, how many tiles its rows have, and which tiles are this program's."""
    parameter = tl.load(entry + PARAMETER).to(tl.int32)
    offset, stride, cols = tl.load(entry + OFFSET), tl.load(entry + STRIDE), tl.load(entry + COLS)
    begin = program * PER_PROGRAM
    end = tl.minimum(begin + PER_PROGRAM, tl.load(entry + LAST).to(tl.int32))
    return parameter, offset, stride, cols, tl.load(entry + TILES).to(tl.int32), begin, end


@triton.jit(do_not_specialize=PER_CALL)
def _pair_kernel(
    plus, minus, weight, table, starts, seed_low, seed_high, eps,
    GAUSSIAN: tl.constexpr, ENTRIES: tl.constexpr, ALIGNMENT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    entry, program = _entry(table, starts, ENTRIES)
    parameter, offset, stride, cols, tiles, begin, end = _tiles(entry, program)
    plus_start, plus_row, plus_col = _plane(entry, 0, plus, WIDE)
    minus_start, minus_row, minus_col = _plane(entry, 1, minus, WIDE)
    weight_start, weight_row, weight_col = _plane(entry, 2, weight, WIDE)
    lane = tl.arange(0, TILE_SIZE)
    for tile in range(begin, end):
        row = (tile // tiles).to(tl.int64)
        first, col, mask = tile_at(row, tile % tiles, offset, stride, cols, ALIGNMENT)
        w = tl.load(weight_start + row * weight_row + col * weight_col + lane * weight_col, mask)
        move = eps * direction_tile(seed_low, seed_high, parameter, first, TILE_SIZE, GAUSSIAN)
        at = plus_start + row * plus_row + col * plus_col + lane * plus_col
        tl.store(at, (w.to(tl.float32) + move).to(plus.dtype.element_ty), mask)
        at = minus_start + row * minus_row + col * minus_col + lane * minus_col
        tl.store(at, (w.to(tl.float32) - move).to(minus.dtype.element_ty), mask)


@triton.jit(do_not_specialize=[*PER_CALL, "moves"])
def _move_kernel(
    weight, table, starts, words, moves, seed_low, seed_high, decay,
    GAUSSIAN: tl.constexpr, ENTRIES: tl.constexpr, ALIGNMENT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    entry, program = _entry(table, starts, ENTRIES)
    parameter, offset, stride, cols, tiles, begin, end = _tiles(entry, program)
    weight_start, weight_row, weight_col = _plane(entry, 0, weight, WIDE)
    factor = tl.where(tl.load(entry + DECAYS) != 0, decay, 1.0)
    lane = tl.arange(0, TILE_SIZE)
    for tile in range(begin, end):
        row = (tile // tiles).to(tl.int64)
        first, col, mask = tile_at(row, tile % tiles, offset, stride, cols, ALIGNMENT)
        at = weight_start + row * weight_row + col * weight_col + lane * weight_col
        move_tile(at, mask, first, words, moves, seed_low, seed_high, factor, parameter, GAUSSIAN)

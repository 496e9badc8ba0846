"""One launch for many GPU tensors: their addresses, strides and regions lie on the device, an entry for each.

A step touches hundreds of tensors, most of them small. A launch for each would cost more than its work.
"""

import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from sglang_mezo_plugin.noise import step_numbers
from sglang_mezo_plugin.noise.cuda.tiles import (
    TILE_SIZE,
    direction_tile,
    layout,
    moved,
    probe_words,
    signed,
    tile_at,
)
from sglang_mezo_plugin.noise.region import Region
from sglang_mezo_plugin.noise.step_numbers import StepNumbers
from sglang_mezo_plugin.noise.values import Distribution

Entry = tuple[list[torch.Tensor], Region, bool]  # 2-D planes: weight, plus, minus; whether decay applies

TILES_A_PROGRAM = 8  # what looking an entry up costs is shared by so many
WIDTH = 16  # int64 words of an entry
# Words of an entry: address, row stride and column stride of each plane, then these.
PARAMETER, OFFSET, STRIDE, COLS, TILES, LAST, DECAYS = (tl.constexpr(9 + field) for field in range(7))
COUNT_WORD, ROUNDING_WORD = tl.constexpr(step_numbers.COUNT), tl.constexpr(step_numbers.ROUNDING)
DECAY_WORD, MOVING_WORD = tl.constexpr(step_numbers.DECAY), tl.constexpr(step_numbers.MOVING)
MOVES_WORD = tl.constexpr(step_numbers.MOVES)
ENTRY_WIDTH, PER_PROGRAM = tl.constexpr(WIDTH), tl.constexpr(TILES_A_PROGRAM)
REGISTERS = 96  # a thread, at most: with more there would be too few threads to hide what they wait for
ACCESS = 16  # bytes that a thread reads or writes at once, where addresses allow


class MultiTensor:
    """Entries on the device, and what all of them have in common, for which the kernel is compiled."""

    def __init__(self, entries: Sequence[Entry], distribution: Distribution) -> None:
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
        device = entries[0][0][0].device
        self._entries = torch.tensor(rows, dtype=torch.int64, device=device)
        self._starts = torch.tensor([*starts, *padding], dtype=torch.int32, device=device)
        self._grid = (programs,)
        # The kernel takes the tensors' types from these arguments, and their addresses from the entries.
        weight, plus, minus = (entries[0][0] * 3)[:3]
        self._samples = [plane.as_strided((1,), (1,)) for plane in (plus, minus, weight)]
        self._constants = {"ENTRIES": len(self._starts), "ALIGNMENT": alignment, "WIDE": wide}
        self._constants["GAUSSIAN"] = distribution == "gaussian"

    def run(self, numbers: StepNumbers, moves: bool, writes: bool) -> None:
        """Move the weights by the numbers, if `moves`; then write the pairs, if `writes`."""
        with torch.cuda.device_of(self._entries):
            _kernel[self._grid](
                *(*self._samples, self._entries, self._starts, numbers.words),
                MOVED=moves,
                PAIRED=writes,
                **self._constants,
                enable_fp_fusion=False,
                num_stages=1,
                maxnreg=REGISTERS,
            )


def _is_wide(plane: torch.Tensor) -> bool:
    """Whether each row begins where a wide access may, and its elements follow one another."""
    size = plane.element_size()
    aligned = plane.data_ptr() % ACCESS == 0 and (len(plane) == 1 or plane.stride(0) * size % ACCESS == 0)
    return aligned and plane.stride(1) == 1


@triton.jit
def _kernel(
    plus, minus, weight, entries, starts, words,
    GAUSSIAN: tl.constexpr, MOVED: tl.constexpr, PAIRED: tl.constexpr,
    ENTRIES: tl.constexpr, ALIGNMENT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Move each weight, if MOVED; then write it at + and at -, if PAIRED. `words`: of `StepNumbers`.

    Whether weights move is asked once: asked for each tile, it would cost a twentieth of the instructions.
    """
    program = tl.program_id(0)
    starts_at = tl.load(starts + tl.arange(0, ENTRIES))
    index = tl.sum((starts_at <= program).to(tl.int32)) - 1
    entry, begin = entries + index * ENTRY_WIDTH, (program - tl.load(starts + index)) * PER_PROGRAM
    weight_plane = _plane(entry, 0, weight, WIDE)
    plus_plane = _plane(entry, 1, plus, WIDE)
    minus_plane = _plane(entry, 2, minus, WIDE)
    seed_low, seed_high, eps = probe_words(words)
    if MOVED and tl.load(words + MOVING_WORD) != 0:
        moves, rounding_low = tl.load(words + COUNT_WORD), tl.load(words + ROUNDING_WORD)
        rounding_high = tl.load(words + ROUNDING_WORD + 1)
        decay = tl.load(words + DECAY_WORD).to(tl.float32, bitcast=True)
        _tiles(
            entry, begin, weight_plane, plus_plane, minus_plane,
            words, moves, rounding_low, rounding_high, decay,
            seed_low, seed_high, eps, GAUSSIAN, True, PAIRED, ALIGNMENT,
        )  # fmt: skip
    else:
        _tiles(
            entry, begin, weight_plane, plus_plane, minus_plane,
            words, 0, 0, 0, 1.0,
            seed_low, seed_high, eps, GAUSSIAN, False, PAIRED, ALIGNMENT,
        )  # fmt: skip


@triton.jit
def _tiles(
    entry, begin, weight, plus, minus,
    words, moves, rounding_low, rounding_high, decay, seed_low, seed_high, eps,
    GAUSSIAN: tl.constexpr, MOVED: tl.constexpr, PAIRED: tl.constexpr, ALIGNMENT: tl.constexpr,
):  # fmt: skip
    """Do a program's share of an entry, the tiles from `begin` on. Planes: as `_plane` returns them."""
    parameter = tl.load(entry + PARAMETER).to(tl.int32)
    offset, stride, cols = tl.load(entry + OFFSET), tl.load(entry + STRIDE), tl.load(entry + COLS)
    tiles, last = tl.load(entry + TILES).to(tl.int32), tl.load(entry + LAST).to(tl.int32)
    factor = tl.where(tl.load(entry + DECAYS) != 0, decay, 1.0)
    weight_start, weight_row, weight_col = weight
    plus_start, plus_row, plus_col = plus
    minus_start, minus_row, minus_col = minus
    lane = tl.arange(0, TILE_SIZE)
    for tile in range(begin, tl.minimum(begin + PER_PROGRAM, last)):
        row = (tile // tiles).to(tl.int64)
        first, col, mask = tile_at(row, tile % tiles, offset, stride, cols, ALIGNMENT)
        at = weight_start + row * weight_row + col * weight_col + lane * weight_col
        w = tl.load(at, mask)
        if MOVED:
            w = moved(
                w, first, words + MOVES_WORD, moves, rounding_low, rounding_high, factor, parameter,
                weight_start.dtype.element_ty, GAUSSIAN,
            )  # fmt: skip
            tl.store(at, w, mask)
        if PAIRED:
            # Read again: kept meanwhile, they would be two registers too many.
            _, seed_high, eps = probe_words(words)
            z = direction_tile(seed_low, seed_high, parameter, first, TILE_SIZE, GAUSSIAN)
            at = plus_start + row * plus_row + col * plus_col + lane * plus_col
            tl.store(at, tl.fma(z, eps, w.to(tl.float32)).to(plus_start.dtype.element_ty), mask)
            at = minus_start + row * minus_row + col * minus_col + lane * minus_col
            tl.store(at, tl.fma(z, -eps, w.to(tl.float32)).to(minus_start.dtype.element_ty), mask)


@triton.jit
def _plane(entry, PLANE: tl.constexpr, sample, WIDE: tl.constexpr):
    """Return a plane's first address and its strides, with what the compiler may know of them."""
    start = tl.load(entry + 3 * PLANE).to(sample.dtype)
    row_stride, col_stride = tl.load(entry + 3 * PLANE + 1), tl.load(entry + 3 * PLANE + 2)
    if WIDE:
        start, row_stride, col_stride = tl.multiple_of(start, 16), tl.multiple_of(row_stride, 16), 1
    return start, row_stride, col_stride

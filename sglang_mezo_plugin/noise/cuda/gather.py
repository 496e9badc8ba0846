"""Rows of a GPU's embedding at + and at -, by one launch that reads their numbers on the device."""

import torch
import triton
import triton.language as tl

from sglang_mezo_plugin.noise.cuda.tiles import (
    PER_CALL,
    TILE_SIZE,
    direction_tile,
    layout,
    probe_words,
    signed,
    tile_at,
)
from sglang_mezo_plugin.noise.region import Region
from sglang_mezo_plugin.noise.step_numbers import StepNumbers
from sglang_mezo_plugin.noise.values import Distribution


def gather_pair(
    plus: torch.Tensor,
    minus: torch.Tensor,
    weight: torch.Tensor,
    rows: torch.Tensor,
    region: Region,
    distribution: Distribution,
    numbers: StepNumbers,
) -> None:
    alignment, tiles = layout(region)
    planes = (value for plane in (plus, minus, weight, rows) for value in (plane, *plane.stride()))
    with torch.cuda.device_of(plus):
        _kernel[(len(plus) * tiles,)](
            *(*planes, numbers.words),
            *(signed(region.parameter), region.offset, region.row_stride, region.cols, tiles),
            GAUSSIAN=distribution == "gaussian",
            ALIGNMENT=alignment,
            enable_fp_fusion=False,
        )


@triton.jit(do_not_specialize=PER_CALL)
def _kernel(
    plus, plus_row, plus_col, minus, minus_row, minus_col, weight, weight_row, weight_col,
    rows, rows_step, words,
    parameter, offset, region_stride, cols, tiles,
    GAUSSIAN: tl.constexpr, ALIGNMENT: tl.constexpr,
):  # fmt: skip
    seed_low, seed_high, eps = probe_words(words)
    row = (tl.program_id(0) // tiles).to(tl.int64)
    source = tl.load(rows + row * rows_step).to(tl.int64)
    first, col, mask = tile_at(source, tl.program_id(0) % tiles, offset, region_stride, cols, ALIGNMENT)
    lane = tl.arange(0, TILE_SIZE)
    w = tl.load(weight + source * weight_row + col * weight_col + lane * weight_col, mask).to(tl.float32)
    z = direction_tile(seed_low, seed_high, parameter, first, TILE_SIZE, GAUSSIAN)
    at = plus + row * plus_row + col * plus_col + lane * plus_col
    tl.store(at, tl.fma(z, eps, w).to(plus.dtype.element_ty), mask)
    at = minus + row * minus_row + col * minus_col + lane * minus_col
    tl.store(at, tl.fma(z, -eps, w).to(minus.dtype.element_ty), mask)

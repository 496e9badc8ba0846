"""Reading and writing tiles of CPU tensors in fp32, fp16 and bf16, compiled by numba.

A plane is a tuple (memory, row_stride, col_stride, format): the memory that a 2-D tensor spans, as a 1-D
array of unsigned integers (numba knows neither fp16 nor bf16), its strides in elements, and one of the
`FORMATS`. A tile is `count` neighbouring elements of a row, from a column on.
"""

import numpy as np
import torch
from numba import njit

from sglang_mezo_plugin.noise.cpu.numbers import fused_multiply_add

FORMATS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_FLOAT32, _FLOAT16, _BFLOAT16 = FORMATS.values()

_U32 = np.uint32
_SIGN, _MAGNITUDE, _INFINITY = np.uint32(0x8000), np.uint32(0x7FFFFFFF), np.uint32(0x7F800000)
_HALFWAY = np.uint32(1 << 31)
_REBIAS = np.uint32(112 << 23)  # fp32's exponent minus fp16's
_SMALLEST_NORMAL = np.uint32(113 << 23)  # fp16's, as fp32
_MANTISSA_BITS = np.uint32(23 << 23)
_FLOAT16_STEP = np.float32(2**-24)  # fp16's spacing below 2**-14


@njit
def load(plane, row, col, count):
    """Return a tile's values: fp32 [count]."""
    memory, row_stride, col_stride, dtype = plane
    start = row * row_stride + col * col_stride
    values = np.empty(count, np.float32)
    bits = values.view(np.uint32)
    if dtype == _FLOAT32:
        for i in range(count):
            bits[i] = memory[start + i * col_stride]
    elif dtype == _BFLOAT16:
        for i in range(count):
            bits[i] = _U32(memory[start + i * col_stride]) << _U32(16)
    else:
        for i in range(count):
            values[i] = _widen_float16(_U32(memory[start + i * col_stride]))
    return values


@njit
def store(plane, row, col, values):
    """Write a tile, rounded to nearest, ties to even; beyond the largest finite value is infinity."""
    memory, row_stride, col_stride, dtype = plane
    start = row * row_stride + col * col_stride
    bits = values.view(np.uint32)
    if dtype == _FLOAT32:
        for i in range(len(values)):
            memory[start + i * col_stride] = bits[i]
    elif dtype == _BFLOAT16:
        for i in range(len(values)):
            lower, fraction = _split_bfloat16(bits[i] & _MAGNITUDE)
            memory[start + i * col_stride] = _finish(
                bits[i], _nearest(lower, fraction), _U32(0x7F80), _U32(0x7F80)
            )
    else:
        for i in range(len(values)):
            lower, fraction = _split_float16(bits[i] & _MAGNITUDE)
            memory[start + i * col_stride] = _finish(
                bits[i], _nearest(lower, fraction), _U32(0x7C00), _U32(0x7C00)
            )


@njit
def store_stochastically(plane, row, col, values, random):
    """Write a tile to an fp16 or bf16 plane, as `philox.round_stochastically`; random: uint32 [count]."""
    memory, row_stride, col_stride, dtype = plane
    start = row * row_stride + col * col_stride
    bits = values.view(np.uint32)
    if dtype == _BFLOAT16:
        for i in range(len(values)):
            rounded = _U32(((bits[i] & _MAGNITUDE) + random[i]) >> _U32(16))
            memory[start + i * col_stride] = _finish(bits[i], rounded, _U32(0x7F7F), _U32(0x7F80))
    else:
        for i in range(len(values)):
            magnitude = bits[i] & _MAGNITUDE
            gap = _U32(max(magnitude & _INFINITY, _SMALLEST_NORMAL) - _MANTISSA_BITS)
            steps = np.float32(np.int32(random[i] >> _U32(3)))
            moved = np.float32(
                fused_multiply_add(steps, gap.view(np.float32), _U32(magnitude).view(np.float32))
            )
            rounded = _truncate_to_float16(moved.view(np.uint32))
            memory[start + i * col_stride] = _finish(bits[i], rounded, _U32(0x7BFF), _U32(0x7C00))


@njit
def _widen_float16(half):
    magnitude = half & _U32(0x7FFF)
    bits = _U32((magnitude << _U32(13)) + _REBIAS)
    if magnitude >= _U32(0x7C00):
        bits = _U32(bits | _INFINITY)
    if magnitude < _U32(0x0400):
        bits = np.float32(np.float32(np.int32(magnitude)) * _FLOAT16_STEP).view(np.uint32)
    return _U32(bits | ((half & _SIGN) << _U32(16))).view(np.float32)


@njit
def _split_bfloat16(magnitude):
    """Return the bits of the neighbour nearer to zero, and 2**32 times the rest as a fraction of the gap."""
    return _U32(magnitude >> _U32(16)), _U32(magnitude << _U32(16))


@njit
def _split_float16(magnitude):
    exponent = np.int32(magnitude >> _U32(23))
    if exponent >= 113:
        significand, shift = _U32(magnitude - _REBIAS), _U32(13)
    else:
        significand, shift = _U32(magnitude & _U32(0x7FFFFF) | _U32(0x800000)), _U32(126 - exponent)
    lower = significand >> min(shift, _U32(31))
    # Below 2**-32 of a gap nothing is left; a shift by 32 bits or more would be undefined.
    fraction = (np.uint64(significand) << np.uint64(32)) >> np.uint64(min(shift, _U32(56)))
    return _U32(lower), _U32(fraction)


@njit
def _truncate_to_float16(magnitude):
    if magnitude >= _SMALLEST_NORMAL:
        return _U32((magnitude - _REBIAS) >> _U32(13))
    significand = _U32(magnitude & _U32(0x7FFFFF) | _U32(0x800000))
    return significand >> min(_U32(126) - (magnitude >> _U32(23)), _U32(31))


@njit
def _nearest(lower, fraction):
    up = fraction > _HALFWAY or (fraction == _HALFWAY and lower & _U32(1) == _U32(1))
    return _U32(lower + _U32(up))


@njit
def _finish(bits, rounded, largest, infinity):
    """Put the sign back, keep finite values at or below `largest`, infinity infinite and NaN NaN."""
    magnitude = bits & _MAGNITUDE
    rounded = min(rounded, largest)
    if magnitude == _INFINITY:
        rounded = infinity
    if magnitude > _INFINITY:
        rounded = _U32(infinity | (infinity >> _U32(1)))
    return _U32(rounded | ((bits >> _U32(16)) & _SIGN))

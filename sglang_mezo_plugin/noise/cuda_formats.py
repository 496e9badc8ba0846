"""fp32, fp16 and bf16 in Triton: widening, and rounding to nearest or stochastically.

bf16 is converted by its bits: one code for GPUs and for Triton's interpreter, which truncates to bf16.
"""

import triton
import triton.language as tl


@triton.jit
def widen(x):
    """Return x as fp32."""
    if x.dtype == tl.bfloat16:
        value = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    else:
        value = x.to(tl.float32)
    return value


@triton.jit
def round_to_nearest(x, DTYPE: tl.constexpr):
    """Round fp32 values, ties to even; beyond the largest finite value is infinity."""
    if DTYPE == tl.bfloat16:  # noqa: SIM300
        bits = x.to(tl.uint32, bitcast=True)
        bits = tl.where(x == x, bits + 0x7FFF + ((bits >> 16) & 1), 0x7FC00000)
        rounded = (bits >> 16).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        rounded = x.to(DTYPE)
    return rounded


@triton.jit
def round_stochastically(x, words, DTYPE: tl.constexpr):
    """Round fp32 values to fp16 or bf16 as `philox.round_stochastically` does."""
    bits = x.to(tl.uint32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    if DTYPE == tl.bfloat16:  # noqa: SIM300
        lower = magnitude >> 16
        fraction = magnitude << 16
        INFINITY: tl.constexpr = 0x7F80
    else:
        lower, fraction = _split_float16(magnitude)
        INFINITY: tl.constexpr = 0x7C00
    rounded = tl.minimum(lower + (words < fraction).to(tl.uint32), INFINITY - 1)
    rounded = tl.where(magnitude == 0x7F800000, INFINITY, rounded)
    rounded = tl.where(magnitude > 0x7F800000, INFINITY | (INFINITY >> 1), rounded) | ((bits >> 16) & 0x8000)
    return rounded.to(tl.uint16).to(DTYPE, bitcast=True)


@triton.jit
def _split_float16(magnitude):
    """Return the bits of the neighbour nearer to zero, and 2**32 times the rest as a fraction of the gap."""
    exponent = (magnitude >> 23).to(tl.int32)
    normal = exponent >= 113
    significand = tl.where(normal, magnitude - (112 << 23), (magnitude & 0x7FFFFF) | 0x800000)
    shift = tl.where(normal, 13, 126 - exponent)
    lower = significand >> tl.minimum(shift, 31).to(tl.uint32)
    near = significand << tl.maximum(32 - shift, 0).to(tl.uint32)
    far = significand >> tl.minimum(tl.maximum(shift - 32, 0), 31).to(tl.uint32)
    return lower, tl.where(shift <= 32, near, far)

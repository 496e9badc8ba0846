"""Stochastic rounding to fp16 and bf16 in Triton."""

import triton
import triton.language as tl


@triton.jit
def round_stochastically(x, random, DTYPE: tl.constexpr):
    """Round fp32 values to fp16 or bf16 by 16 random bits, as `philox.round_stochastically` does."""
    bits = x.to(tl.uint32, bitcast=True)
    if DTYPE == tl.bfloat16:  # noqa: SIM300
        magnitude = bits & 0x7FFFFFFF
        finite = magnitude < 0x7F800000
        rounded = tl.where(finite, tl.minimum(magnitude + random, 0x7F7FFFFF), magnitude) >> 16
        rounded = (rounded | ((bits >> 16) & 0x8000)).to(tl.uint16).to(DTYPE, bitcast=True)
    else:
        # A multiple of 2**-13 of fp16's spacing is added, with the value's sign.
        gap = tl.maximum(bits & 0x7F800000, 113 << 23) - (26 << 23) | bits & 0x80000000
        steps = (random & 0xFFF8).to(tl.int32).to(tl.float32)
        moved = tl.fma(steps, gap.to(tl.float32, bitcast=True), x)
        # Towards zero, finite values end at the largest one.
        rounded = moved.to(DTYPE, fp_downcast_rounding="rtz")
    return rounded

"""Philox, Gaussian and Rademacher noise on the GPU: the steps of `philox.py` as Triton functions.

Compile kernels that use these with enable_fp_fusion=False: a fused multiply-add rounds once where the
reference rounds twice.
"""

import triton
import triton.language as tl

from sglang_mezo_plugin.noise import philox

MULTIPLIER_0 = tl.constexpr(philox.MULTIPLIERS[0])
MULTIPLIER_1 = tl.constexpr(philox.MULTIPLIERS[1])
STEP_0 = tl.constexpr(philox.KEY_STEPS[0])
STEP_1 = tl.constexpr(philox.KEY_STEPS[1])
ROUNDS = tl.constexpr(philox.ROUNDS)
DIRECTION_STREAM = tl.constexpr(philox.DIRECTION_STREAM)
ROUNDING_STREAM = tl.constexpr(philox.ROUNDING_STREAM)
LOG = tl.constexpr(philox.LOG_POLYNOMIAL)
SINE = tl.constexpr(philox.SINE_POLYNOMIAL)
COSINE = tl.constexpr(philox.COSINE_POLYNOMIAL)
LOG2_HIGH = tl.constexpr(philox.LOG2_HIGH)
LOG2_LOW = tl.constexpr(philox.LOG2_LOW)
SQRT_HALF = tl.constexpr(philox.SQRT_HALF_BITS)
RADIANS = tl.constexpr(philox.RADIANS_PER_STEP)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Return four uint32 words from a counter of four and a key of two."""
    for _ in tl.static_range(ROUNDS):
        high0 = tl.umulhi(c0, MULTIPLIER_0)
        high1 = tl.umulhi(c2, MULTIPLIER_1)
        low0 = c0 * MULTIPLIER_0
        low1 = c2 * MULTIPLIER_1
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + STEP_0
        k1 = k1 + STEP_1
    return c0, c1, c2, c3


@triton.jit
def block_words(seed_low, seed_high, parameter, block, STREAM: tl.constexpr):
    """Return the four words of each block. The seed's halves and the parameter are int32 bit patterns."""
    c0 = block.to(tl.uint32)
    c1 = (block >> 32).to(tl.uint32)
    c2 = tl.zeros_like(c0) + seed_high.to(tl.uint32, bitcast=True)
    c3 = tl.zeros_like(c0) + STREAM
    return philox4x32(
        c0, c1, c2, c3, seed_low.to(tl.uint32, bitcast=True), parameter.to(tl.uint32, bitcast=True)
    )


@triton.jit
def direction(seed_low, seed_high, parameter, first, TILE: tl.constexpr, GAUSSIAN: tl.constexpr):
    """Return z for elements first : first + TILE, where first begins a block: fp32 [TILE]."""
    if GAUSSIAN:
        block = (first >> 2) + tl.arange(0, TILE // 4)
        w0, w1, w2, w3 = block_words(seed_low, seed_high, parameter, block, DIRECTION_STREAM)
        radius0 = _radius(w0)
        cosine0, sine0 = _cosine_sine(w1)
        radius1 = _radius(w2)
        cosine1, sine1 = _cosine_sine(w3)
        z = lanes(radius0 * cosine0, radius0 * sine0, radius1 * cosine1, radius1 * sine1)
    else:
        block = (first >> 7) + tl.arange(0, TILE // 128)
        w0, w1, w2, w3 = block_words(seed_low, seed_high, parameter, block, DIRECTION_STREAM)
        bits = lanes(w0, w1, w2, w3)[:, None] >> tl.arange(0, 32).to(tl.uint32)[None, :]
        # The sign bit of 1.0 is the opposite of the element's bit.
        ones = 0x3F800000 | ((bits & 1 ^ 1) << 31)
        z = tl.reshape(ones, [TILE]).to(tl.float32, bitcast=True)
    return z


@triton.jit
def rounding_words(seed_low, seed_high, parameter, first, TILE: tl.constexpr):
    """Return the words that decide how elements first : first + TILE are rounded: uint32 [TILE]."""
    block = (first >> 2) + tl.arange(0, TILE // 4)
    w0, w1, w2, w3 = block_words(seed_low, seed_high, parameter, block, ROUNDING_STREAM)
    return lanes(w0, w1, w2, w3)


@triton.jit
def lanes(a, b, c, d):
    """Interleave four [n] tensors to one [4n]: a[0], b[0], c[0], d[0], a[1], ..."""
    return tl.interleave(tl.interleave(a, c), tl.interleave(b, d))


@triton.jit
def _radius(word):
    steps = ((word >> 8) + 1).to(tl.int32).to(tl.float32)
    shifted = steps.to(tl.uint32, bitcast=True) - SQRT_HALF
    exponent = ((shifted >> 23).to(tl.int32) - 24).to(tl.float32)
    f = ((shifted & 0x7FFFFF) + SQRT_HALF).to(tl.float32, bitcast=True) - 1.0
    square = f * f
    y = _polynomial(LOG, 8, f) * f * square
    y = y + exponent * LOG2_LOW - 0.5 * square
    return tl.sqrt_rn(-2.0 * (f + y + exponent * LOG2_HIGH))


@triton.jit
def _cosine_sine(word):
    steps = (word >> 8).to(tl.int32)
    quarter = (steps + (1 << 21)) >> 22
    x = (steps - (quarter << 22)).to(tl.float32) * RADIANS
    square = x * x
    sine = _polynomial(SINE, 2, square) * square * x + x
    cosine = _polynomial(COSINE, 2, square) * square * square - 0.5 * square + 1.0
    odd = (quarter & 1) == 1
    return (
        _flip(tl.where(odd, sine, cosine), (quarter + 1) << 30),
        _flip(tl.where(odd, cosine, sine), quarter << 30),
    )


@triton.jit
def _flip(value, sign):
    """Negate values where the top bit of `sign` is one."""
    bits = value.to(tl.int32, bitcast=True) ^ (sign & -0x80000000)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _polynomial(COEFFICIENTS: tl.constexpr, DEGREE: tl.constexpr, x):
    value = x * COEFFICIENTS[0] + COEFFICIENTS[1]
    for i in tl.static_range(2, DEGREE + 1):
        value = value * x + COEFFICIENTS[i]
    return value

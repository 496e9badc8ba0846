"""Philox, Gaussian and Rademacher noise on the GPU: the steps of `philox.py` as Triton functions.

Compile kernels that use these with enable_fp_fusion=False: multiply-adds are fused where the reference fuses
them, and nowhere else.
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
UNIFORM_SCALE = tl.constexpr(philox.UNIFORM_SCALE)
UNIFORM_SHIFT = tl.constexpr(philox.UNIFORM_SHIFT)
LOG = tl.constexpr(philox.LOG_POLYNOMIAL)
EXPONENT_STEP = tl.constexpr(philox.EXPONENT_STEP)
SQRT_HALF = tl.constexpr(philox.SQRT_HALF_BITS)
SINE = tl.constexpr(philox.SINE_POLYNOMIAL)
COSINE = tl.constexpr(philox.COSINE_POLYNOMIAL)
ANGLE_STEP = tl.constexpr(philox.ANGLE_STEP)


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Return four uint32 words from a counter of four and a key of two."""
    for _ in tl.static_range(ROUNDS):
        high0, low0 = _multiply(c0, MULTIPLIER_0)
        high1, low1 = _multiply(c2, MULTIPLIER_1)
        c0 = high1 ^ c1 ^ k0
        c1 = low1
        c2 = high0 ^ c3 ^ k1
        c3 = low0
        k0 = k0 + STEP_0
        k1 = k1 + STEP_1
    return c0, c1, c2, c3


@triton.jit
def _multiply(value, MULTIPLIER: tl.constexpr):
    """Return the high and the low half of a product: one wide multiplication, where two would be slower."""
    product = value.to(tl.uint64) * MULTIPLIER
    return (product >> 32).to(tl.uint32), product.to(tl.uint32)


@triton.jit
def block_words(seed_low, seed_high, parameter, block, STREAM: tl.constexpr):
    """Return the four words of each block (uint32). Seed halves and parameter are int32 patterns."""
    key_0, key_1 = seed_low.to(tl.uint32, bitcast=True), parameter.to(tl.uint32, bitcast=True)
    high = tl.zeros_like(block) + seed_high.to(tl.uint32, bitcast=True)
    return philox4x32(block, tl.zeros_like(block), high, tl.zeros_like(block) + STREAM, key_0, key_1)


@triton.jit
def direction(seed_low, seed_high, parameter, first, TILE: tl.constexpr, GAUSSIAN: tl.constexpr):
    """Return z for elements first : first + TILE, where first is a multiple of eight: fp32 [TILE].

    A thread makes eight neighbours, which it then reads or writes at once.
    """
    if GAUSSIAN:
        block = (first >> 2).to(tl.uint32) + 2 * tl.arange(0, TILE // 8).to(tl.uint32)
        w0, w1, w2, w3 = block_words(seed_low, seed_high, parameter, block, DIRECTION_STREAM)
        z0, z1 = _box_muller(_radius(w0), w1)
        z2, z3 = _box_muller(_radius(w2), w3)
        w0, w1, w2, w3 = block_words(seed_low, seed_high, parameter, block + 1, DIRECTION_STREAM)
        z4, z5 = _box_muller(_radius(w0), w1)
        z6, z7 = _box_muller(_radius(w2), w3)
        z = _lanes(z0, z1, z2, z3, z4, z5, z6, z7)
    else:
        # Sixteen threads evaluate the same block: still a sixth of what memory takes.
        group = (first >> 3).to(tl.uint32) + tl.arange(0, TILE // 8).to(tl.uint32)
        w0, w1, w2, w3 = block_words(seed_low, seed_high, parameter, group >> 4, DIRECTION_STREAM)
        low, high = tl.where((group & 4) == 0, w0, w1), tl.where((group & 4) == 0, w2, w3)
        word = (tl.where((group & 8) == 0, low, high) >> ((group & 3) * 8)) ^ 0xFFFFFFFF
        # The sign bit of 1.0 is the opposite of the element's bit.
        signs = _lanes(
            word << 31, word << 30, word << 29, word << 28, word << 27, word << 26, word << 25, word << 24
        )
        z = (signs & 0x80000000 | 0x3F800000).to(tl.float32, bitcast=True)
    return z


@triton.jit
def rounding_bits(seed_low, seed_high, parameter, first, TILE: tl.constexpr):
    """Return the 16 bits that decide how elements first : first + TILE are rounded: uint32 [TILE]."""
    block = (first >> 3).to(tl.uint32) + tl.arange(0, TILE // 8).to(tl.uint32)
    w0, w1, w2, w3 = block_words(seed_low, seed_high, parameter, block, ROUNDING_STREAM)
    return _lanes(w0 & 0xFFFF, w0 >> 16, w1 & 0xFFFF, w1 >> 16, w2 & 0xFFFF, w2 >> 16, w3 & 0xFFFF, w3 >> 16)


@triton.jit
def _lanes(a, b, c, d, e, f, g, h):
    """Interleave eight [n] tensors to one [8n]: a[0], b[0], ..., h[0], a[1], ..."""
    even = tl.interleave(tl.interleave(a, e), tl.interleave(c, g))
    odd = tl.interleave(tl.interleave(b, f), tl.interleave(d, h))
    return tl.interleave(even, odd)


@triton.jit
def _radius(word):
    bits = tl.fma(word.to(tl.float32), UNIFORM_SCALE, UNIFORM_SHIFT).to(tl.int32, bitcast=True)
    exponent = (bits - SQRT_HALF) & -0x800000
    f = (bits - exponent).to(tl.float32, bitcast=True) - 1.0
    return _sqrt(tl.fma(exponent.to(tl.float32), EXPONENT_STEP, f * _polynomial(LOG, 6, f)))


@triton.jit
def _sqrt(x):
    """Return the square root as IEEE 754 has it, for the values above 0 that occur: no branch for others.

    A step of Newton's method and Markstein's correction, as in what compilers make of a square root.
    """
    estimate = tl.rsqrt(x)
    root = x * estimate
    return tl.fma(tl.fma(-root, root, x), 0.5 * estimate, root)


@triton.jit
def _box_muller(radius, word):
    y = (word << 2).to(tl.int32, bitcast=True).to(tl.float32) * ANGLE_STEP
    square = y * y
    sine = y * _polynomial(SINE, 2, square)
    cosine = radius * _polynomial(COSINE, 3, square)
    return _flip(tl.fma(-radius, sine, cosine), word), _flip(tl.fma(radius, sine, cosine), word << 1)


@triton.jit
def _flip(value, sign):
    """Negate values where the top bit of `sign` is one."""
    bits = value.to(tl.uint32, bitcast=True) ^ (sign & 0x80000000)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def _polynomial(COEFFICIENTS: tl.constexpr, DEGREE: tl.constexpr, x):
    value = tl.fma(x, COEFFICIENTS[0], COEFFICIENTS[1])
    for i in tl.static_range(2, DEGREE + 1):
        value = tl.fma(value, x, COEFFICIENTS[i])
    return value

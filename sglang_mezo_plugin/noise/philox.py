"""The numbers themselves: noise as plain numpy, slow and short. The other backends must give the same bits.

Philox4x32-10 is of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011):
ten rounds turn a counter of four 32-bit words and a key of two into four words. Here

    key     = (low half of the seed, parameter id)
    counter = (block, 0, high half of the seed, stream)

where a block is a group of neighbouring elements of the checkpoint's tensor, flattened row by row: four of
them for a Gaussian direction, eight for the bits of stochastic rounding, 128 for a Rademacher direction.

Logarithm, sine and cosine are short polynomials in fp32, fitted for the least largest error: a few
millionths, which is far below what eps z adds to a weight of 16 bits. They are made of additions,
multiplications and fused multiply-adds: IEEE 754 fixes the result of each, where libraries' functions differ
in the last bit. So a direction has the same bits on every device, and a run can be replayed on another one.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Floats = NDArray[np.float32]

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

DIRECTION_STREAM = 0
ROUNDING_STREAM = 1

GAUSSIAN_BLOCK = 4
ROUNDING_BLOCK = 8
RADEMACHER_BLOCK = 128

# A word becomes (word + 1/2) / 2**32, in fp32, and below 1.
UNIFORM_SCALE, UNIFORM_SHIFT = 2.0**-32 - 2.0**-56, 2.0**-33
# -2 log(u) = exponent * EXPONENT_STEP + f * LOG(f) for u = 2**exponent * (1 + f) and f in [sqrt(1/2) - 1,
# sqrt(2) - 1], highest power first; the exponent is taken as an integer times 2**23, as it lies in fp32.
LOG_POLYNOMIAL = (
    -0.237922132,
    0.373357207,
    -0.409926623,
    0.498194873,
    -0.666290164,
    1.00002229,
    -2.00000191,
)
EXPONENT_STEP = -2 * 0.6931471805599453 * 2.0**-23
SQRT_HALF_BITS = 0x3F3504F3  # the fp32 nearest to sqrt(1/2), as an integer
# sin(pi y / 4) / sqrt(2) = y * S(y**2) and cos(pi y / 4) / sqrt(2) = C(y**2) for |y| <= 1.
SINE_POLYNOMIAL = (0.00172224536, -0.0570810214, 0.555359542)
COSINE_POLYNOMIAL = (-0.000225482567, 0.0112075824, -0.21808888, 0.707106769)
ANGLE_STEP = 2.0**-31


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, ...]:
    """Return the four output words of Philox4x32-10. All arguments are uint32 arrays that broadcast."""
    c0, c1, c2, c3 = (np.asarray(word, np.uint64) for word in counter)
    k0, k1 = (np.asarray(word, np.uint64) for word in key)
    for _ in range(ROUNDS):
        high0, low0 = _multiply(MULTIPLIERS[0], c0)
        high1, low1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0 = (k0 + KEY_STEPS[0]) & np.uint64(0xFFFFFFFF)
        k1 = (k1 + KEY_STEPS[1]) & np.uint64(0xFFFFFFFF)
    return tuple(np.asarray(c, np.uint32) for c in (c0, c1, c2, c3))


def block_words(seed: int, parameter: int, blocks: NDArray[np.int64], stream: int) -> Words:
    """Return the words of the given blocks: uint32 [len(blocks), 4]."""
    blocks = np.asarray(blocks, np.uint64)
    counter = (blocks, np.uint64(0), np.full_like(blocks, seed >> 32), np.full_like(blocks, stream))
    return np.stack(philox4x32(counter, (np.uint64(seed & 0xFFFFFFFF), np.uint64(parameter))), axis=-1)


def gaussian(seed: int, parameter: int, elements: NDArray[np.int64]) -> Floats:
    """Return z at the given element indices, standard normal, fp32.

    Words 0 and 1 of a block give the block's elements 0 and 1, radius * cosine and radius * sine (Box and
    Muller, 1958); words 2 and 3 give its elements 2 and 3. |z| < sqrt(66 log 2) = 6.77.
    """
    words = block_words(seed, parameter, elements // GAUSSIAN_BLOCK, DIRECTION_STREAM)
    lane = elements % GAUSSIAN_BLOCK
    first = (lane // 2 * 2)[:, None]
    radius = _radius(np.take_along_axis(words, first, axis=1)[:, 0])
    first, second = _box_muller(radius, np.take_along_axis(words, first + 1, axis=1)[:, 0])
    return np.where(lane % 2 == 0, first, second)


def rademacher(seed: int, parameter: int, elements: NDArray[np.int64]) -> Floats:
    """Return z at the given element indices: +1 where the element's bit is one, else -1, fp32.

    The bit of element e is bit e % 32 of word (e % 128) // 32 of block e // 128.
    """
    words = block_words(seed, parameter, elements // RADEMACHER_BLOCK, DIRECTION_STREAM)
    word = np.take_along_axis(words, (elements % RADEMACHER_BLOCK // 32)[:, None], axis=1)[:, 0]
    bit = (word >> (elements % 32).astype(np.uint32)) & 1
    return np.where(bit == 1, np.float32(1), np.float32(-1))


def rounding_bits(seed: int, parameter: int, elements: NDArray[np.int64]) -> Words:
    """Return the 16 bits that decide how each element is rounded, as uint32.

    Block e // 8 of stream 1 has those of element e: word e % 8 // 2, the low half where e is even.
    """
    words = block_words(seed, parameter, elements // ROUNDING_BLOCK, ROUNDING_STREAM)
    word = np.take_along_axis(words, (elements % ROUNDING_BLOCK // 2)[:, None], axis=1)[:, 0]
    return np.where(elements % 2 == 0, word & 0xFFFF, word >> 16).astype(np.uint32)


def round_stochastically(values: Floats, random: Words, dtype: Literal["float16", "bfloat16"]) -> NDArray:
    """Round fp32 values to one of their two neighbours in a 16-bit type, given 16 uniform bits for each.

    random / 2**16 of the gap between the neighbours is added to the magnitude, and what lies between them
    then cut off: the expectation is the value, and a value that the type can represent stays as it is. That
    is exact for bf16, and for fp16 by the upper 13 bits, which is as many as fp32 has beyond it. (Below
    2**-14, where fp16's spacing is fixed, parts under 2**-13 of it are lost.) Finite values beyond the
    largest finite one become that one, with their sign; infinities stay infinite and NaN stays NaN. Returns
    uint16 bits.
    """
    bits = values.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    if dtype == "float16":
        largest, infinity, nan = 0x7BFF, 0x7C00, 0x7E00
        rounded = _truncate_to_float16(_add_to_float16(np.minimum(magnitude, np.uint32(143 << 23)), random))
    else:
        largest, infinity, nan = 0x7F7F, 0x7F80, 0x7FC0
        rounded = (magnitude + random) >> 16
    rounded = np.minimum(rounded, largest)
    rounded = np.where(magnitude == 0x7F800000, infinity, rounded)
    rounded = np.where(magnitude > 0x7F800000, nan, rounded)
    return (rounded | (bits >> 16) & 0x8000).astype(np.uint16)


def fused_multiply_add(a: Floats, b: Floats, c: Floats) -> Floats:
    """Return a * b + c, rounded once to fp32.

    The product is exact in fp64. The sum is rounded to odd there: what is cut off leaves a one as the last
    bit, so that rounding again, to fp32, does not take it for a tie. Infinities and NaN stay.
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    addend = np.asarray(c, np.float64)
    total = np.asarray(product + addend)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        rest = (product - (total - (total - product))) + (addend - (total - product))
    bits = total.view(np.int64)
    odd = np.where(np.signbit(rest) != np.signbit(total), bits - 1, bits) | 1
    return np.where((rest != 0) & np.isfinite(total), odd, bits).view(np.float64).astype(np.float32)


def _multiply(multiplier: int, value: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the high and the low half of a 32-bit product."""
    product = value * np.uint64(multiplier)
    return product >> np.uint64(32), product & np.uint64(0xFFFFFFFF)


def _radius(words: Words) -> Floats:
    """Return sqrt(-2 log u) for u = (word + 1/2) / 2**32, which is in (0, 1) and rounded to fp32."""
    uniform = fused_multiply_add(
        words.astype(np.float32), np.float32(UNIFORM_SCALE), np.float32(UNIFORM_SHIFT)
    )
    bits = uniform.view(np.int32)
    exponent = (bits - np.int32(SQRT_HALF_BITS)) & np.int32(-(1 << 23))
    f = (bits - exponent).view(np.float32) - np.float32(1)
    logarithm = f * _polynomial(LOG_POLYNOMIAL, f)
    return np.sqrt(fused_multiply_add(exponent.astype(np.float32), np.float32(EXPONENT_STEP), logarithm))


def _box_muller(radius: Floats, words: Words) -> tuple[Floats, Floats]:
    """Return radius * cosine and radius * sine of the angle that a word stands for.

    Its top two bits are the signs. The others, as a signed fraction y, are an angle of pi / 4 * (1 + y) in a
    quarter of a turn, whose cosine and sine are (cos - sin) / sqrt(2) and (cos + sin) / sqrt(2) of
    pi / 4 * y.
    """
    y = (words << 2).view(np.int32).astype(np.float32) * np.float32(ANGLE_STEP)
    square = y * y
    sine = y * _polynomial(SINE_POLYNOMIAL, square)
    cosine = radius * _polynomial(COSINE_POLYNOMIAL, square)
    first = fused_multiply_add(-radius, sine, cosine)
    second = fused_multiply_add(radius, sine, cosine)
    return _flip(first, words), _flip(second, words << 1)


def _flip(values: Floats, signs: Words) -> Floats:
    """Negate values where the top bit of `signs` is one."""
    return (values.view(np.uint32) ^ (signs & np.uint32(1 << 31))).view(np.float32)


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """Return the polynomial's value by Horner's rule in fused multiply-adds."""
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = fused_multiply_add(value, x, np.float32(coefficient))
    return value


def _add_to_float16(magnitude: Words, random: Words) -> Words:
    """Add random / 2**16 of fp16's spacing to magnitudes, in fp32."""
    gap = np.maximum(magnitude & np.uint32(0x7F800000), np.uint32(113 << 23)) - np.uint32(23 << 23)
    steps = (random >> 3).astype(np.float32)
    return fused_multiply_add(steps, gap.view(np.float32), magnitude.view(np.float32)).view(np.uint32)


def _truncate_to_float16(magnitude: Words) -> Words:
    """Return fp16's bits of the value at or next below, as if its exponent had no end."""
    exponent = (magnitude >> 23).astype(np.int32)
    normal = (magnitude - np.uint32(112 << 23)) >> 13
    significand = magnitude & 0x7FFFFF | 0x800000
    subnormal = significand >> np.clip(126 - exponent, 14, 31).astype(np.uint32)
    return np.where(exponent >= 113, normal, subnormal)

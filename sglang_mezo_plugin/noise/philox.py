"""The numbers themselves: noise as plain numpy, slow and short. The other backends must give the same bits.

Philox4x32-10 is of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC 2011):
ten rounds turn a counter of four 32-bit words and a key of two into four words. Here

    key     = (low half of the seed, parameter id)
    counter = (low half of the block, high half of the block, high half of the seed, stream)

where a block is a group of neighbouring elements of the checkpoint's tensor, flattened row by row: four of
them for a Gaussian direction and for the bits of stochastic rounding, 128 for a Rademacher direction.

The logarithm, sine and cosine are short polynomials in fp32 (those of Moshier's Cephes library), made of
multiplications and additions alone: IEEE 754 fixes the result of each, where libraries' functions differ
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
RADEMACHER_BLOCK = 128

# log(1 + f) = f - f**2 / 2 + f**3 * P(f) for f in [sqrt(1/2) - 1, sqrt(2) - 1], highest power first.
LOG_POLYNOMIAL = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
# log(2) in two parts: the first has so few bits that its product with an exponent is exact.
LOG2_HIGH = 0.693359375
LOG2_LOW = -2.12194440e-4
SQRT_HALF_BITS = 0x3F3504F3  # the fp32 nearest to sqrt(1/2), as an integer
# sin(x) = x + x**3 * S(x**2) and cos(x) = 1 - x**2 / 2 + x**4 * C(x**2) for |x| <= pi / 4.
SINE_POLYNOMIAL = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)
COSINE_POLYNOMIAL = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)
RADIANS_PER_STEP = 2 * np.pi / 2**24  # an angle is a whole number of 2**-24 turns


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
    low, high = blocks & np.uint64(0xFFFFFFFF), blocks >> np.uint64(32)
    counter = (low, high, np.full_like(low, seed >> 32), np.full_like(low, stream))
    return np.stack(philox4x32(counter, (np.uint64(seed & 0xFFFFFFFF), np.uint64(parameter))), axis=-1)


def gaussian(seed: int, parameter: int, elements: NDArray[np.int64]) -> Floats:
    """Return z at the given element indices, standard normal, fp32.

    Words 0 and 1 of a block give the block's elements 0 and 1, radius * cosine and radius * sine (Box and
    Muller, 1958); words 2 and 3 give its elements 2 and 3. |z| <= sqrt(48 ln 2) = 5.77.
    """
    words = block_words(seed, parameter, elements // GAUSSIAN_BLOCK, DIRECTION_STREAM)
    lane = elements % GAUSSIAN_BLOCK
    first = (lane // 2 * 2)[:, None]
    radius = _radius(np.take_along_axis(words, first, axis=1)[:, 0])
    cosine, sine = _cosine_sine(np.take_along_axis(words, first + 1, axis=1)[:, 0])
    return radius * np.where(lane % 2 == 0, cosine, sine)


def rademacher(seed: int, parameter: int, elements: NDArray[np.int64]) -> Floats:
    """Return z at the given element indices: +1 where the element's bit is one, else -1, fp32.

    The bit of element e is bit e % 32 of word (e % 128) // 32 of block e // 128.
    """
    words = block_words(seed, parameter, elements // RADEMACHER_BLOCK, DIRECTION_STREAM)
    word = np.take_along_axis(words, (elements % RADEMACHER_BLOCK // 32)[:, None], axis=1)[:, 0]
    bit = (word >> (elements % 32).astype(np.uint32)) & 1
    return np.where(bit == 1, np.float32(1), np.float32(-1))


def rounding_words(seed: int, parameter: int, elements: NDArray[np.int64]) -> Words:
    """Return the word that decides how each element is rounded: word e % 4 of block e // 4 of stream 1."""
    words = block_words(seed, parameter, elements // GAUSSIAN_BLOCK, ROUNDING_STREAM)
    return np.take_along_axis(words, (elements % GAUSSIAN_BLOCK)[:, None], axis=1)[:, 0]


def round_stochastically(values: Floats, words: Words, dtype: Literal["float16", "bfloat16"]) -> NDArray:
    """Round fp32 values to one of their two neighbours in a 16-bit type, given a uniform word for each.

    The neighbour farther from zero is taken if word / 2**32 is below the discarded part, as a fraction of
    the gap: the expectation is the value, and a value that the type can represent stays as it is. (In fp16,
    parts below 2**-56 are lost: 32 bits do not reach them.) Finite values beyond the largest finite one
    become that one, with their sign; infinities stay infinite and NaN stays NaN. Returns uint16 bits.
    """
    bits = values.view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    lower, fraction = _split_float16(magnitude) if dtype == "float16" else _split_bfloat16(magnitude)
    largest, infinity, nan = (0x7BFF, 0x7C00, 0x7E00) if dtype == "float16" else (0x7F7F, 0x7F80, 0x7FC0)
    rounded = np.minimum(lower + (words < fraction), largest)
    rounded = np.where(magnitude == 0x7F800000, infinity, rounded)
    rounded = np.where(magnitude > 0x7F800000, nan, rounded)
    return (rounded | (bits >> 16) & 0x8000).astype(np.uint16)


def _multiply(multiplier: int, value: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the high and the low half of a 32-bit product."""
    product = value * np.uint64(multiplier)
    return product >> np.uint64(32), product & np.uint64(0xFFFFFFFF)


def _radius(words: Words) -> Floats:
    """Return sqrt(-2 log u) for u = (top 24 bits + 1) / 2**24, which is in (0, 1] and exact in fp32."""
    steps = ((words >> 8) + 1).astype(np.float32)
    shifted = steps.view(np.uint32) - np.uint32(SQRT_HALF_BITS)
    exponent = ((shifted >> 23).astype(np.int32) - 24).astype(np.float32)
    f = ((shifted & 0x7FFFFF) + np.uint32(SQRT_HALF_BITS)).view(np.float32) - np.float32(1)
    square = f * f
    y = _polynomial(LOG_POLYNOMIAL, f) * f * square
    y = y + exponent * np.float32(LOG2_LOW) - np.float32(0.5) * square
    logarithm = f + y + exponent * np.float32(LOG2_HIGH)
    return np.sqrt(np.float32(-2) * logarithm)


def _cosine_sine(words: Words) -> tuple[Floats, Floats]:
    """Return cosine and sine of an angle of (top 24 bits) / 2**24 turns, reduced to an eighth exactly."""
    steps = (words >> 8).astype(np.int32)
    quarter = (steps + (1 << 21)) >> 22
    x = (steps - (quarter << 22)).astype(np.float32) * np.float32(RADIANS_PER_STEP)
    square = x * x
    sine = _polynomial(SINE_POLYNOMIAL, square) * square * x + x
    cosine = (
        _polynomial(COSINE_POLYNOMIAL, square) * square * square - np.float32(0.5) * square + np.float32(1)
    )
    odd = quarter & 1 == 1
    cosine, sine = np.where(odd, sine, cosine), np.where(odd, cosine, sine)
    return np.where((quarter + 1) & 2 == 2, -cosine, cosine), np.where(quarter & 2 == 2, -sine, sine)


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    """Return the polynomial's value by Horner's rule; a product and a sum are each rounded to fp32."""
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + np.float32(coefficient)
    return value


def _split_bfloat16(magnitude: Words) -> tuple[Words, Words]:
    """Return the bits of the neighbour nearer to zero, and 2**32 times the rest as a fraction of the gap."""
    return magnitude >> 16, magnitude << 16


def _split_float16(magnitude: Words) -> tuple[Words, Words]:
    """As `_split_bfloat16`. Below 2**-14 fp16 has a fixed spacing, so the shift grows as values shrink."""
    exponent = (magnitude >> 23).astype(np.int32)
    normal = exponent >= 113
    significand = np.where(normal, magnitude - np.uint32(112 << 23), magnitude & 0x7FFFFF | 0x800000)
    shift = np.where(normal, 13, 126 - exponent).astype(np.uint32)
    lower = significand >> np.minimum(shift, 31)
    near = significand << np.clip(32 - shift.astype(np.int32), 0, 31).astype(np.uint32)
    far = significand >> np.clip(shift.astype(np.int32) - 32, 0, 31).astype(np.uint32)
    return lower, np.where(shift <= 32, near, far)

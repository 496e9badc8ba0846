"""Philox, Gaussian and Rademacher noise on the CPU: the steps of `philox.py`, compiled by numba.

Every constant has a numpy type, because numba takes any other for 64 bits wide, and rounding would change.
"""

import numpy as np
from numba import njit

from sglang_mezo_plugin.noise import philox

_MULTIPLIER_0, _MULTIPLIER_1 = (np.uint64(m) for m in philox.MULTIPLIERS)
_STEP_0, _STEP_1 = (np.uint32(s) for s in philox.KEY_STEPS)
_DIRECTION, _ROUNDING = np.uint32(philox.DIRECTION_STREAM), np.uint32(philox.ROUNDING_STREAM)
_LOG = tuple(np.float32(c) for c in philox.LOG_POLYNOMIAL)
_SINE = tuple(np.float32(c) for c in philox.SINE_POLYNOMIAL)
_COSINE = tuple(np.float32(c) for c in philox.COSINE_POLYNOMIAL)
_LOG2_HIGH, _LOG2_LOW = np.float32(philox.LOG2_HIGH), np.float32(philox.LOG2_LOW)
_RADIANS = np.float32(philox.RADIANS_PER_STEP)
_SQRT_HALF = np.uint32(philox.SQRT_HALF_BITS)
_HALF, _ONE, _MINUS_TWO = np.float32(0.5), np.float32(1), np.float32(-2)
_WORD = np.uint64(32)


@njit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Return four uint32 words from a counter of four and a key of two."""
    for _ in range(philox.ROUNDS):
        p0, p1 = np.uint64(c0) * _MULTIPLIER_0, np.uint64(c2) * _MULTIPLIER_1
        high0, high1 = np.uint32(p0 >> _WORD), np.uint32(p1 >> _WORD)
        c0, c1, c2, c3 = np.uint32(high1 ^ c1 ^ k0), np.uint32(p1), np.uint32(high0 ^ c3 ^ k1), np.uint32(p0)
        k0, k1 = np.uint32(k0 + _STEP_0), np.uint32(k1 + _STEP_1)
    return c0, c1, c2, c3


@njit
def gaussian(seed, parameter, first, count):
    """Return z for elements first : first + count: fp32 [count]."""
    words = _words(seed, parameter, first >> 2, (first + count + 3) >> 2, _DIRECTION)
    z = np.empty(len(words), np.float32)
    for pair in range(len(words) // 2):
        radius = _radius(words[2 * pair])
        cosine, sine = _cosine_sine(words[2 * pair + 1])
        z[2 * pair] = radius * cosine
        z[2 * pair + 1] = radius * sine
    return z[first & 3 : (first & 3) + count]


@njit
def rademacher(seed, parameter, first, count):
    """Return z for elements first : first + count: fp32 [count]."""
    words = _words(seed, parameter, first >> 7, (first + count + 127) >> 7, _DIRECTION)
    z = np.empty(32 * len(words), np.float32)
    for word in range(len(words)):
        for bit in range(32):
            z[32 * word + bit] = np.float32(np.int32((words[word] >> np.uint32(bit)) & np.uint32(1)) * 2 - 1)
    return z[first & 127 : (first & 127) + count]


@njit
def rounding_words(seed, parameter, first, count):
    """Return the words that decide how elements first : first + count are rounded: uint32 [count]."""
    words = _words(seed, parameter, first >> 2, (first + count + 3) >> 2, _ROUNDING)
    return words[first & 3 : (first & 3) + count]


@njit
def _words(seed, parameter, start, stop, stream):
    """Return the words of blocks start:stop: uint32 [4 * (stop - start)]."""
    words = np.empty(4 * (stop - start), np.uint32)
    seed_low, seed_high = np.uint32(seed), np.uint32(seed >> _WORD)
    for i in range(stop - start):
        block = np.uint64(start + i)
        w0, w1, w2, w3 = philox4x32(
            np.uint32(block), np.uint32(block >> _WORD), seed_high, stream, seed_low, parameter
        )
        words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3] = w0, w1, w2, w3
    return words


@njit
def _radius(word):
    steps = np.float32(np.int32(word >> np.uint32(8)) + np.int32(1))
    shifted = np.uint32(steps.view(np.uint32) - _SQRT_HALF)
    exponent = np.float32(np.int32(shifted >> np.uint32(23)) - np.int32(24))
    f = np.uint32((shifted & np.uint32(0x7FFFFF)) + _SQRT_HALF).view(np.float32) - _ONE
    square = f * f
    y = _polynomial(_LOG, f) * f * square
    y = y + exponent * _LOG2_LOW - _HALF * square
    return np.sqrt(_MINUS_TWO * (f + y + exponent * _LOG2_HIGH))


@njit
def _cosine_sine(word):
    steps = np.int32(word >> np.uint32(8))
    quarter = np.int32((steps + (1 << 21)) >> 22)
    x = np.float32(np.int32(steps - (quarter << 22))) * _RADIANS
    square = x * x
    sine = _polynomial(_SINE, square) * square * x + x
    cosine = _polynomial(_COSINE, square) * square * square - _HALF * square + _ONE
    if quarter & 1:
        cosine, sine = sine, cosine
    if (quarter + 1) & 2:
        cosine = -cosine
    if quarter & 2:
        sine = -sine
    return cosine, sine


@njit
def _polynomial(coefficients, x):
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value

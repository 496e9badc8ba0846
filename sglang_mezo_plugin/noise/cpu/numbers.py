"""Philox, Gaussian and Rademacher noise on the CPU: the steps of `philox.py`, compiled by numba.

Every constant has a numpy type, because numba takes any other for 64 bits wide, and rounding would change.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from sglang_mezo_plugin.noise import philox

_MULTIPLIER_0, _MULTIPLIER_1 = (np.uint64(m) for m in philox.MULTIPLIERS)
_STEP_0, _STEP_1 = (np.uint32(s) for s in philox.KEY_STEPS)
_DIRECTION, _ROUNDING = np.uint32(philox.DIRECTION_STREAM), np.uint32(philox.ROUNDING_STREAM)
_UNIFORM_SCALE, _UNIFORM_SHIFT = np.float32(philox.UNIFORM_SCALE), np.float32(philox.UNIFORM_SHIFT)
_LOG = tuple(np.float32(c) for c in philox.LOG_POLYNOMIAL)
_EXPONENT_STEP = np.float32(philox.EXPONENT_STEP)
_SQRT_HALF = np.int32(philox.SQRT_HALF_BITS)
_EXPONENT_MASK = np.int32(-(1 << 23))
_SINE = tuple(np.float32(c) for c in philox.SINE_POLYNOMIAL)
_COSINE = tuple(np.float32(c) for c in philox.COSINE_POLYNOMIAL)
_ANGLE_STEP = np.float32(philox.ANGLE_STEP)
_SIGN = np.uint32(1 << 31)
_ONE = np.float32(1)
_WORD = np.uint64(32)


@intrinsic
def fused_multiply_add(typing_context: Any, a: types.Type, b: types.Type, c: types.Type) -> Any:
    """Return a * b + c in fp32, rounded once."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> ir.Instruction:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


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
        z[2 * pair], z[2 * pair + 1] = _box_muller(_radius(words[2 * pair]), words[2 * pair + 1])
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
def add_scaled(values, coefficient, z):
    """Return values + coefficient * z, rounded once: fp32, of the arguments' length."""
    total = np.empty_like(values)
    for i in range(len(values)):
        total[i] = fused_multiply_add(coefficient, z[i], values[i])
    return total


@njit
def rounding_bits(seed, parameter, first, count):
    """Return the 16 bits that decide how elements first : first + count are rounded: uint32 [count]."""
    words = _words(seed, parameter, first >> 3, (first + count + 7) >> 3, _ROUNDING)
    bits = np.empty(2 * len(words), np.uint32)
    for i in range(len(words)):
        bits[2 * i] = words[i] & np.uint32(0xFFFF)
        bits[2 * i + 1] = words[i] >> np.uint32(16)
    return bits[first & 7 : (first & 7) + count]


@njit
def _words(seed, parameter, start, stop, stream):
    """Return the words of blocks start:stop: uint32 [4 * (stop - start)]."""
    words = np.empty(4 * (stop - start), np.uint32)
    seed_low, seed_high = np.uint32(seed), np.uint32(seed >> _WORD)
    for i in range(stop - start):
        block = np.uint32(start + i)
        w0, w1, w2, w3 = philox4x32(block, np.uint32(0), seed_high, stream, seed_low, parameter)
        words[4 * i], words[4 * i + 1], words[4 * i + 2], words[4 * i + 3] = w0, w1, w2, w3
    return words


@njit
def _radius(word):
    uniform = fused_multiply_add(np.float32(word), _UNIFORM_SCALE, _UNIFORM_SHIFT)
    bits = np.float32(uniform).view(np.int32)
    exponent = np.int32(np.int32(bits - _SQRT_HALF) & _EXPONENT_MASK)
    f = np.int32(bits - exponent).view(np.float32) - _ONE
    logarithm = np.float32(f * _polynomial(_LOG, f))
    return np.sqrt(fused_multiply_add(np.float32(exponent), _EXPONENT_STEP, logarithm))


@njit
def _box_muller(radius, word):
    y = np.float32(np.uint32(word << np.uint32(2)).view(np.int32)) * _ANGLE_STEP
    square = y * y
    sine = y * _polynomial(_SINE, square)
    cosine = radius * _polynomial(_COSINE, square)
    first = fused_multiply_add(-radius, sine, cosine)
    second = fused_multiply_add(radius, sine, cosine)
    return _flip(first, word), _flip(second, np.uint32(word << np.uint32(1)))


@njit
def _flip(value, sign):
    return np.uint32(np.float32(value).view(np.uint32) ^ (sign & _SIGN)).view(np.float32)


@njit
def _polynomial(coefficients, x):
    value = coefficients[0]
    for coefficient in coefficients[1:]:
        value = fused_multiply_add(value, x, coefficient)
    return value

"""Reference, numba and Triton give the same bits."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import known_answers
import noise_cases
import numpy as np
import plan_cases
import pytest
import torch

from sglang_mezo_plugin.noise import philox
from sglang_mezo_plugin.noise.cpu import numbers as cpu_noise

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def wanted() -> dict[str, torch.Tensor]:
    return noise_cases.expected() | plan_cases.expected()


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Results of the Triton kernels by Triton's interpreter, on CPU tensors."""
    path = tmp_path_factory.mktemp("triton") / "results.pt"
    paths = [str(HERE.parent.parent), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    worker = [sys.executable, str(HERE / "triton_worker.py"), str(path)]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(path)


def test_known_answers_of_the_reference() -> None:
    counter, key = known_answers.table(known_answers.COUNTERS).T, known_answers.table(known_answers.KEYS).T
    words = np.stack(philox.philox4x32(tuple(counter), tuple(key)), axis=1)
    np.testing.assert_array_equal(words, known_answers.table(known_answers.WORDS))


def test_known_answers_of_numba() -> None:
    counters, keys = known_answers.table(known_answers.COUNTERS), known_answers.table(known_answers.KEYS)
    words = [cpu_noise.philox4x32(*counter, *key) for counter, key in zip(counters, keys, strict=True)]
    np.testing.assert_array_equal(words, known_answers.table(known_answers.WORDS))


def test_known_answers_of_triton(interpreted: dict[str, torch.Tensor]) -> None:
    words = interpreted["words"].numpy().view(np.uint32)
    np.testing.assert_array_equal(words, known_answers.table(known_answers.WORDS))


def test_numba_has_the_bits_of_the_reference(wanted: dict[str, torch.Tensor]) -> None:
    assert noise_cases.differences(noise_cases.run("cpu") | plan_cases.run("cpu"), wanted) == {}


def test_interpreted_triton_has_the_bits_of_the_reference(
    interpreted: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]
) -> None:
    results = {name: tensor for name, tensor in interpreted.items() if name != "words"}
    assert noise_cases.differences(results, wanted) == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_triton_on_a_gpu_has_the_bits_of_the_reference(wanted: dict[str, torch.Tensor]) -> None:
    import triton_worker

    words = triton_worker.words("cuda").numpy().view(np.uint32)
    np.testing.assert_array_equal(words, known_answers.table(known_answers.WORDS))
    assert noise_cases.differences(noise_cases.run("cuda") | plan_cases.run("cuda"), wanted) == {}


def test_gaussian_is_the_box_muller_transform_of_its_words() -> None:
    """The polynomials against numpy's functions in fp64."""
    count = 400_000
    words = philox.block_words(3, 4, np.arange(count // 4), philox.DIRECTION_STREAM)
    radius = np.sqrt(-2 * np.log((words[:, 0::2] + 0.5) / 2**32))
    cosine, sine = cosine_and_sine(words[:, 1::2])
    exact = np.stack([radius * cosine, radius * sine], axis=2).ravel()
    assert np.abs(philox.gaussian(3, 4, np.arange(count)) - exact).max() < 1.5e-5


def test_extreme_words() -> None:
    """The largest and smallest uniform numbers, and angles at the ends of each quarter of a turn."""
    words = np.array([0, 1, 0xFF, 0xF0000000, 0x80000000, 0xB504F300, 0xB504F400], np.uint32)
    radius = philox._radius(words)
    np.testing.assert_allclose(radius, np.sqrt(-2 * np.log((words + 0.5) / 2**32)), rtol=1e-6)
    assert radius[0] < 6.77 and 0 < philox._radius(np.array([0xFFFFFFFF], np.uint32))[0] < 4e-4
    ends = np.array([0, 0x1FFFFFFF, 0x20000000, 0x3FFFFFFF], np.uint32)
    angles = (np.arange(4, dtype=np.uint32)[:, None] << 30 | ends).ravel()
    first, second = philox._box_muller(np.ones(16, np.float32), angles)
    cosine, sine = cosine_and_sine(angles)
    np.testing.assert_allclose(first, cosine, atol=3e-6)
    np.testing.assert_allclose(second, sine, atol=3e-6)


def cosine_and_sine(words: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the angles that words stand for, in fp64: two bits for the signs, 30 for a quarter of a turn."""
    angle = np.pi / 4 * (1 + (words << np.uint32(2)).view(np.int32) / 2**31)
    signs = [1 - 2.0 * (words >> np.uint32(bit) & 1) for bit in (31, 30)]
    return signs[0] * np.cos(angle), signs[1] * np.sin(angle)


def test_fused_multiply_add_rounds_once() -> None:
    """Against exact fractions; half of the sums cancel to what the product's own rounding would lose."""
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 4000)).astype(np.float32)
    c = (generator.standard_normal(4000) * 2.0 ** generator.integers(-30, 30, 4000)).astype(np.float32)
    c[::2] = -(a * b)[::2]
    for x, y, z, got in zip(a, b, c, philox.fused_multiply_add(a, b, c), strict=True):
        exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
        below, above = (np.nextafter(got, np.float32(end)) for end in (-np.inf, np.inf))
        distance = abs(Fraction(float(got)) - exact)
        assert all(distance <= abs(Fraction(float(other)) - exact) for other in (below, above))

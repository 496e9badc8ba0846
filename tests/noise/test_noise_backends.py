"""Reference, numba and Triton give the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import known_answers
import noise_cases
import numpy as np
import pytest
import torch

from sglang_mezo_plugin.noise import cpu_noise, philox

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def wanted() -> dict[str, torch.Tensor]:
    return noise_cases.expected()


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Results of the Triton kernels by Triton's interpreter, on CPU tensors."""
    path = tmp_path_factory.mktemp("triton") / "results.pt"
    paths = [str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    worker = [sys.executable, str(HERE / "triton_worker.py"), str(path)]
    done = subprocess.run(worker, env=environment, capture_output=True, text=True, timeout=300)
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
    assert noise_cases.differences(noise_cases.run("cpu"), wanted) == {}


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
    assert noise_cases.differences(noise_cases.run("cuda"), wanted) == {}


def test_gaussian_is_the_box_muller_transform_of_its_words() -> None:
    """The polynomials against numpy's functions in fp64: the last bit or two of fp32."""
    count = 400_000
    words = philox.block_words(3, 4, np.arange(count // 4), philox.DIRECTION_STREAM).astype(np.float64)
    steps = np.floor(words / 256)
    radius = np.sqrt(-2 * np.log((steps[:, 0::2] + 1) / 2**24))
    angle = 2 * np.pi * steps[:, 1::2] / 2**24
    exact = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=2).ravel()
    assert np.abs(philox.gaussian(3, 4, np.arange(count)) - exact).max() < 6e-7


def test_extreme_words() -> None:
    """The largest and smallest uniform numbers, and angles at the ends of each eighth of a turn."""
    words = np.array([0, 0xFF, 0x100, 0xFFFFFFFF, 0x80000000, 0xB504F300, 0xB504F400], np.uint32)
    exact = np.sqrt(-2 * np.log(((words >> 8) + 1.0) / 2**24))
    radius = philox._radius(words)
    np.testing.assert_allclose(radius, exact, rtol=2e-7)
    assert radius[3] == 0 and radius[0] < 5.77
    eighths = (np.arange(16, dtype=np.uint32) // 2 << 29) + np.tile(np.array([0, 0xFFFFFF00], np.uint32), 8)
    angle = 2 * np.pi * (eighths >> 8) / 2**24
    cosine, sine = philox._cosine_sine(eighths)
    np.testing.assert_allclose(cosine, np.cos(angle), atol=1.2e-7)
    np.testing.assert_allclose(sine, np.sin(angle), atol=1.2e-7)

from collections.abc import Iterator
from pathlib import Path

import pytest
import triton
from kernel_compiler import KERNELS, Compiler, Driver

from sglang_mezo_plugin.noise import backends, cuda


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    """Send calls of the public functions to the kernels, with CPU tensors and without a GPU."""
    if triton.knobs.runtime.interpret:
        pytest.skip("the interpreter compiles nothing")
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    compiler = Compiler()
    for (module, name), kernel in zip(KERNELS, compiler.kernels, strict=True):
        monkeypatch.setattr(module, name, compiler.replacing(kernel))
        kernel.device_caches.clear()
    monkeypatch.setattr(backends, "backend_of", lambda tensor: cuda)
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    yield compiler
    for kernel in compiler.kernels:  # a GPU of another kind must not run this code
        kernel.device_caches.clear()

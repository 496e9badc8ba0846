"""Compiles the Triton kernels for a GPU, where there is none."""

import re
from collections.abc import Callable
from typing import Any

from triton.backends.compiler import GPUTarget

from sglang_mezo_plugin.noise.cuda import gather, multi_tensor

HOPPER = GPUTarget("cuda", 90, 32)
KERNELS = [(gather, "_kernel"), (multi_tensor, "_kernel")]


class Driver:
    """As much of Triton's driver as compiling at a launch asks for."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiler:
    """Kernels whose launch compiles and does not run."""

    def __init__(self) -> None:
        self.kernels = [getattr(module, name) for module, name in KERNELS]
        self.ptx = ""  # of the last launch

    def replacing(self, kernel: Any) -> Any:
        class Launched:
            def __getitem__(_, grid: tuple[int, ...]) -> Callable[..., None]:
                assert 0 < grid[0] < 2**31

                def launch(*args: Any, **options: Any) -> None:
                    assert options["enable_fp_fusion"] is False
                    self.ptx = kernel.warmup(*args, grid=grid, **options).asm["ptx"]

                return launch

        return Launched()

    def versions(self) -> list[int]:
        """How many have been compiled of each kernel."""
        return [sum(len(cache[0]) for cache in kernel.device_caches.values()) for kernel in self.kernels]

    def count(self, pattern: str) -> int:
        return len(re.findall(pattern, self.ptx))

"""The noise on a CPU: Python threads over numba kernels."""

from sglang_mezo_plugin.noise.cpu.kernels import MultiTensor, gather_pair

__all__ = ["MultiTensor", "gather_pair"]

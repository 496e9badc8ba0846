"""The noise on a CPU: Python threads over numba kernels."""

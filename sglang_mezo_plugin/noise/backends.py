"""Which backend a tensor's noise is made by."""

from types import ModuleType

import torch


def backend_of(tensor: torch.Tensor) -> ModuleType:
    """Return the package for a tensor's device, imported when needed: numba and Triton load slowly.

    It has `MultiTensor`, for plans, and `gather_pair`.
    """
    if tensor.is_cuda:
        from sglang_mezo_plugin.noise import cuda as backend
    else:
        from sglang_mezo_plugin.noise import cpu as backend
    return backend

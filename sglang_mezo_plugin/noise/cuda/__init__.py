"""The noise on a GPU: Triton kernels, one launch for many tensors."""

from sglang_mezo_plugin.noise.cuda.gather import gather_pair
from sglang_mezo_plugin.noise.cuda.multi_tensor import MultiTensor

__all__ = ["MultiTensor", "gather_pair"]

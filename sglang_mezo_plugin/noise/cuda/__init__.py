"""The noise on a GPU: Triton kernels, one launch for many tensors."""

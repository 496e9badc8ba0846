"""Integer tensors in one stretch of memory, so that one copy takes them all to the device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Literal

import numpy as np
import torch

ALIGNMENT = 16  # bytes; Triton compiles kernels once more for what is aligned less
SIZES = {"int64": 8, "int32": 4}

Fields = Mapping[str, tuple[Literal["int64", "int32"], tuple[int, ...]]]
"""Of each tensor its dtype and shape, by name."""


def packed_size(fields: Fields) -> int:
    """Return the bytes that these tensors take."""
    return sum(_aligned(dtype, shape) for dtype, shape in fields.values())


def views(stretch: torch.Tensor, fields: Fields) -> dict[str, torch.Tensor]:
    """Return the tensors of a uint8 [packed_size(fields)]."""
    return {
        name: stretch[place].view(getattr(torch, dtype)).view(shape)
        for name, place, dtype, shape in _places(fields)
    }


def arrays(stretch: torch.Tensor, fields: Fields) -> dict[str, np.ndarray]:
    """Return the same as numpy arrays; the stretch is on the host."""
    host = stretch.numpy()
    return {name: host[place].view(dtype).reshape(shape) for name, place, dtype, shape in _places(fields)}


def _places(fields: Fields) -> Iterator[tuple[str, slice, str, tuple[int, ...]]]:
    start = 0
    for name, (dtype, shape) in fields.items():
        yield name, slice(start, start + prod(shape) * SIZES[dtype]), dtype, shape
        start += _aligned(dtype, shape)


def _aligned(dtype: str, shape: tuple[int, ...]) -> int:
    return -(-prod(shape) * SIZES[dtype] // ALIGNMENT) * ALIGNMENT

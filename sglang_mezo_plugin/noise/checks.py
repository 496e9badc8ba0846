"""Which tensors the public functions of this package refuse, and the 2-D views that its backends work on."""

from dataclasses import replace
from itertools import pairwise

import torch

from sglang_mezo_plugin.noise.region import Region

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INDEX_DTYPES = (torch.int32, torch.int64)


def planes_of(region: Region, **tensors: torch.Tensor) -> tuple[list[torch.Tensor], Region]:
    """Check tensors against a region; return them as 2-D views, with the region to use for those.

    Where rows follow one another without a gap, in the tensors as in the checkpoint, they become one row:
    tiles need not end with each of them.
    """
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
        if region.rows != 1 or tuple(tensor.shape) != (region.cols,):
            _check_region(name, tensor, region)
    check_same_device(**tensors)
    planes = [tensor[None] if tensor.dim() == 1 else tensor for tensor in tensors.values()]
    if region.row_stride == region.cols and all(plane.is_contiguous() for plane in planes):
        size = region.rows * region.cols
        return [plane.view(1, size) for plane in planes], replace(region, rows=1, cols=size, row_stride=size)
    return planes, region


def check_gather(rows: torch.Tensor, weight: torch.Tensor, region: Region, **outs: torch.Tensor) -> None:
    """Check the tensors of `gather_pair_into`; whether rows are in the table, only where that is no wait."""
    if rows.dtype not in INDEX_DTYPES or rows.dim() != 1:
        raise ValueError(f"rows must be int32 or int64 [n], not {rows.dtype} {list(rows.shape)}")
    for name, tensor in {**outs, "weight": weight}.items():
        _check_tensor(name, tensor)
    check_same_device(**outs, weight=weight, rows=rows)
    _check_region("weight", weight, region)
    for name, out in outs.items():
        if tuple(out.shape) != (len(rows), region.cols):
            raise ValueError(
                f"{name} has shape {list(out.shape)}, but {len(rows)} rows of {region.cols} are gathered"
            )
    if rows.device.type == "cpu" and len(rows):
        low, high = (int(end) for end in rows.aminmax())
        if low < 0 or high >= region.rows:
            raise ValueError(f"rows must be in [0, {region.rows}), but are in [{low}, {high}]")


def check_apart(**tensors: torch.Tensor) -> None:
    """Raise ValueError if two tensors share memory, by the addresses between which each lies."""
    spans = sorted(
        (tensor.data_ptr(), _end(tensor), name) for name, tensor in tensors.items() if tensor.numel()
    )
    for (_, end, name), (start, _, other) in pairwise(spans):
        if start < end:
            raise ValueError(f"{name} and {other} overlap in memory")


def check_same_device(**tensors: torch.Tensor) -> None:
    """Raise ValueError unless tensors are on one device."""
    if len({tensor.device for tensor in tensors.values()}) > 1:
        devices = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"tensors are on different devices: {devices}")


def _check_tensor(name: str, tensor: torch.Tensor) -> None:
    if tensor.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} is on {tensor.device}: noise is for CPU and CUDA tensors")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{name} is {tensor.dtype}, not one of float32, float16 and bfloat16")
    if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        raise ValueError(f"{name} is an expanded view: several of its elements are one place in memory")


def _check_region(name: str, tensor: torch.Tensor, region: Region) -> None:
    if tuple(tensor.shape) != (region.rows, region.cols):
        raise ValueError(
            f"{name} has shape {list(tensor.shape)}, but its region is {region.rows} x {region.cols}"
        )


def _end(tensor: torch.Tensor) -> int:
    """Return the address after a tensor's last element."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()

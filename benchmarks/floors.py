"""How fast a step could be on this machine: what it must compute and move, over measured rates.

Flops, for both signs: 2 for each parameter outside the embeddings and token, 2 for each of the head's and
labelled token, and 4 * layers * hidden * sum(length**2) / 2 for causal attention. Bytes: all weights are read
once for the forward; full training reads and writes them once more for its update. Noise is taken to be free,
and activations and an adapter to weigh nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from models import Model
from timing import median_ms

from sglang_mezo_plugin.tasks.example import Example

MATRIX = {"cuda": 8192, "cpu": 512}  # rows and columns of the product
COPY_BYTES = {"cuda": 2 * 2**30, "cpu": 2**26}
SIGNS = 2


@dataclass(frozen=True)
class Rates:
    """What a device was seen to do: operations and bytes a second."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Work:
    """What a step must do at least: operations, and bytes moved through the device's memory."""

    flops: int
    bytes: int

    def floor_ms(self, rates: Rates, devices: int) -> float:
        """Return the least time of a step, in milliseconds, with the work spread evenly over devices."""
        return 1e3 * max(self.flops / rates.flops, self.bytes / rates.bytes) / devices


def measure_rates(device: str, dtype: torch.dtype) -> Rates:
    """Time a square product of random matrices, and a copy, read and written bytes counted: medians of 20."""
    size = MATRIX[device]
    a, b = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    product = torch.empty_like(a)
    product_ms = median_ms(lambda: torch.mm(a, b, out=product), device)
    source = torch.randint(255, (COPY_BYTES[device],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_ms = median_ms(lambda: target.copy_(source), device)
    return Rates(flops=2 * size**3 / (product_ms / 1e3), bytes=2 * source.nbytes / (copy_ms / 1e3))


def work_of_step(model: Model, batch: Sequence[Example], itemsize: int, updates_weights: bool) -> Work:
    """Return what a step on a batch must do. itemsize: bytes of a weight."""
    config = model.config
    lengths = [len(example.prompt) for example in batch]
    matrices = 2 * (model.parameters - model.embeddings) * sum(lengths) + 2 * model.head * len(batch)
    attention = 2 * config.num_hidden_layers * config.hidden_size * sum(length**2 for length in lengths)
    passes = 3 if updates_weights else 1
    return Work(flops=SIGNS * (matrices + attention), bytes=passes * model.parameters * itemsize)

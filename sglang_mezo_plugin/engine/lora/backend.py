"""A LoRA backend for mirrored batches: `copies` times the same rows, and copy i takes slot i of the pool.

SGLang's own backends gather each request's adapter by tables that they build for every batch. Here nothing is
left to look up, and only those parts of a layer's output are touched that the adapter changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.lora.backend.base_backend import BaseLoRABackend
from sglang.srt.lora.layers import BaseLayerWithLoRA
from sglang.srt.lora.lora_manager import LoRAManager
from sglang.srt.model_executor.forward_batch_info import ForwardBatch

from sglang_mezo_plugin.engine.lora.kernels import AdaptedColumns, add_lora_


@dataclass
class MirroredBatch:
    """What layers need to know of a batch. The flags are SGLang's: `LoRAManager` sets them."""

    copies: int
    scaling: float
    has_active_lora: bool = False
    is_prefill: bool = False


class MirroredLoRABackend(BaseLoRABackend):
    """Adds the adapters' part to layers' outputs, in place.

    adapted: for each layer that the adapter changes, the columns of its output; others run as without LoRA.
    """

    name = "mirrored"
    skip_inactive_lora_batches = True  # without an adapter, layers do not ask

    def __init__(self, manager: LoRAManager, adapted: Mapping[torch.nn.Module, AdaptedColumns]) -> None:
        super().__init__(manager.max_loras_per_batch, manager.device)
        self._adapted = adapted

    def install(self, manager: LoRAManager) -> None:
        """Take the place of the backend that the manager was built with."""
        manager.lora_backend = self
        for module in manager.base_model.modules():
            if isinstance(module, BaseLayerWithLoRA):
                module.lora_backend = self

    def prepare_lora_batch(
        self,
        forward_batch: ForwardBatch,
        weight_indices: list[int],
        lora_ranks: list[int],
        scalings: list[float],
        *unused: Any,
        **unused_by_name: Any,
    ) -> None:
        """Note how many copies there are. ValueError unless copy i takes slot i."""
        copies = weight_indices[-1] + 1
        requests = len(weight_indices) // copies
        if weight_indices != [slot for slot in range(copies) for _ in range(requests)]:
            raise ValueError(f"requests take slots {weight_indices}: not copies of a batch, in slots' order")
        self.batch_info = MirroredBatch(copies, scalings[0])

    def forward_with_base(
        self,
        layer: torch.nn.Module,
        x: torch.Tensor,
        base_fn: Callable[[], torch.Tensor],
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        output_offset: torch.Tensor,
        offsets: Sequence[int],
        *,
        all_reduce: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **unused: Any,
    ) -> torch.Tensor:
        """Return the layer's output with LoRA: [copies * rows, out].

        all_reduce: sums the ranks' outputs. Each adds the LoRA of the inputs that it has, and one sum is
        enough: B is whole on every rank, and linear.
        """
        output = base_fn()
        if columns := self._adapted.get(layer):
            batch = self.batch_info
            add = add_lora_ if x.is_cuda else add_lora_by_torch_
            add(output, x, lora_a[: batch.copies], lora_b[: batch.copies], columns, batch.scaling)
        return output if all_reduce is None else all_reduce(output)


def add_lora_by_torch_(
    out: torch.Tensor,
    x: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    columns: AdaptedColumns,
    scaling: float,
) -> None:
    """Do what `kernels.add_lora_` does, on any device and for any dtype."""
    copies, rank = len(a), columns.rank
    low = torch.bmm(x.view(copies, -1, x.shape[-1]), a.transpose(1, 2))
    by_copy = out.view(copies, -1, out.shape[-1])
    for start, stop, row in columns.parts:
        part = b[:, start:stop, :rank].transpose(1, 2)
        by_copy[..., start:stop].baddbmm_(low[..., row : row + rank], part, alpha=scaling)

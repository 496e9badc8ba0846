"""Where an adapter's parameters lie in SGLang's LoRA pool: stacked there, and this rank's shard of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sglang.srt.layers.linear import LinearBase, MergedColumnParallelLinear, QKVParallelLinear
from sglang.srt.lora.layers import BaseLayerWithLoRA
from sglang.srt.lora.lora_manager import LoRAManager
from sglang.srt.lora.utils import get_lora_module_name

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.noise import Region

# Which modules SGLang stacks, and in which order.
STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


@dataclass(frozen=True)
class SlotPiece:
    """A piece of a parameter, and where each slot has it.

    slots: [slots, rows, cols], a view of the pool. weight: [rows, cols], a view of the fp32 parameter.
    """

    slots: torch.Tensor
    weight: torch.Tensor
    region: Region


class SlotMap:
    """An adapter's parameters in the pool.

    pieces: of all parameters; A is there as often as its module has stacked parts. adapted: for each of the
    engine's modules that the adapter changes, parts of this rank's output: first column, column after the
    last, and first row of A. Raises UserError for a module that SGLang cannot adapt.
    """

    def __init__(self, manager: LoRAManager, adapter: Adapter) -> None:
        self.pieces: list[SlotPiece] = []
        self.adapted: dict[BaseLayerWithLoRA, list[tuple[int, int, int]]] = {}
        self._manager, self._rank = manager, adapter.config.r
        for name, (weight, region) in adapter.parameters().items():
            self._add(get_lora_module_name(name, manager.base_model), weight, region)

    def _add(self, name: str, weight: torch.Tensor, region: Region) -> None:
        path, _, matrix = name.removeprefix("base_model.model.").partition(".lora_")
        parent, _, leaf = path.rpartition(".")
        target = next((stack for stack, parts in STACKS.items() if leaf in parts), leaf)
        layer, module = self._find(f"{parent}.{target}")
        stack, pool, rank = STACKS.get(target, (leaf,)), self._manager.memory_pool, self._rank
        # The checkpoint's module may be a whole stack itself.
        parts = range(len(stack)) if leaf == target else [stack.index(leaf)]
        if matrix.startswith("A"):
            columns = _slice(module.slice_lora_a_weights(torch.arange(region.cols)[None, :])[0])
            for part in parts:
                slots = pool.A_buffer[target][layer][:, part * rank : (part + 1) * rank]
                piece = region.column_slice(columns.start, columns.stop)
                self.pieces.append(SlotPiece(slots, weight[:, columns], piece))
            return
        sizes = _output_sizes(module.base_layer)
        stacked = module.slice_lora_b_weights(torch.arange(sum(sizes))[:, None])[:, 0]
        origin = 0 if leaf == target else sum(sizes[: parts[0]])
        for part in parts:
            start, stop = module.lora_offsets[part : part + 2]
            rows = _slice(stacked[start:stop] - origin)
            slots = pool.B_buffer[target][layer][:, start:stop, :rank]
            self.pieces.append(SlotPiece(slots, weight[rows], region.row_slice(rows.start, rows.stop)))
            self.adapted.setdefault(module, []).append((start, stop, part * rank))

    def _find(self, path: str) -> tuple[int, BaseLayerWithLoRA]:
        """Return the layer and the engine's module of a path in the checkpoint.

        Models that wrap a language model name it differently up to the layers.
        """
        within = path[path.index("layers.") :]
        for layer, modules in enumerate(self._manager.lora_modules):
            for name, module in modules.items():
                known = get_lora_module_name(name, self._manager.base_model)
                if known[known.index("layers.") :] == within:
                    return layer, module
        raise UserError(f"--lora-target-modules: SGLang has no {path} that takes an adapter: leave it out")


def _output_sizes(linear: LinearBase) -> list[int]:
    """Return how many outputs each stacked part has on all ranks together."""
    if isinstance(linear, QKVParallelLinear):  # its own list counts heads that several ranks have
        heads = (linear.total_num_heads, linear.total_num_kv_heads, linear.total_num_kv_heads)
        return [count * linear.head_size for count in heads]
    if isinstance(linear, MergedColumnParallelLinear):
        return linear.output_sizes
    return [linear.output_size]


def _slice(indices: torch.Tensor) -> slice:
    """Return the range that these consecutive indices are."""
    first = int(indices[0])
    return slice(first, first + len(indices))

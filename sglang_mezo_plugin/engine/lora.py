"""Adapter training: theta + eps z and theta - eps z are two adapters in two slots of SGLang's LoRA pool.

The parameters are kept in fp32; slots have the model's dtype and are written from them, straight from the
noise. One forward evaluates as many pairs as there are slots for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from sglang.srt.lora.layers import BaseLayerWithLoRA
from sglang.srt.lora.lora_manager import LoRAManager
from sglang.srt.lora.lora_registry import LoRARef
from sglang.srt.lora.utils import get_lora_module_name
from sglang.srt.model_executor.model_runner import ModelRunner

from sglang_mezo_plugin.adapter import Adapter
from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.losses import Scores
from sglang_mezo_plugin.noise import Direction, Region, perturb_pair_into
from sglang_mezo_plugin.tasks.example import Batch

# Which modules SGLang stacks, and in which order.
STACKS = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class LoraCarrier(FrozenCarrier):
    """An adapter under training. Implements `carrier.Carrier`.

    The runner must have been opened with `adapter_server_args`; every second of its slots holds a +.
    """

    def __init__(self, model_runner: ModelRunner, adapter: Adapter) -> None:
        super().__init__(model_runner)
        self._manager: LoRAManager = model_runner.lora_manager
        self._adapter = adapter
        self._slot_ids = [f"mezo-{slot}" for slot in range(self._manager.max_loras_per_batch)]
        self._fill_slots()
        adapter.to(model_runner.device)
        self._slots = [
            {name: list(self._places(name, slot_id)) for name in adapter.tensors}
            for slot_id in self._slot_ids
        ]

    def score_pairs(
        self, batch: Batch, directions: Sequence[Direction], eps: float
    ) -> list[tuple[Scores, Scores]]:
        pairs: list[tuple[Scores, Scores]] = []
        room = len(self._slots) // 2
        for start in range(0, len(directions), room):
            chunk = directions[start : start + room]
            for pair, direction in enumerate(chunk):
                self._write_pair(2 * pair, direction, eps)
            scores = self._score(batch, copies=2 * len(chunk))
            pairs.extend(zip(scores[::2], scores[1::2], strict=True))
        return pairs

    def score(self, batch: Batch) -> Scores:
        for name, tensor in self._adapter.tensors.items():
            for place in self._slots[0][name]:
                place.copy_(tensor)
        return self._score(batch, copies=1)[0]

    def step(self, moves: Sequence[tuple[Direction, float]], decay: float, rounding_seed: int) -> None:
        self._adapter.step(moves, decay, rounding_seed)

    def parameters(self) -> Mapping[str, tuple[torch.Tensor, Region]]:
        return self._adapter.parameters()

    def written(self) -> None:
        """Nothing to do: slots are written from the parameters whenever they are used."""

    @property
    def names(self) -> list[str]:
        """The adapter's parameters."""
        return sorted(self._adapter.tensors)

    def save(self, folder: Path) -> None:
        """Write a PEFT folder."""
        self._adapter.save(folder)

    def _write_pair(self, slot: int, direction: Direction, eps: float) -> None:
        for name, (tensor, region) in self._adapter.parameters().items():
            for plus, minus in zip(self._slots[slot][name], self._slots[slot + 1][name], strict=True):
                perturb_pair_into(plus, minus, tensor, direction, region, eps)

    def _score(self, batch: Batch, copies: int) -> list[Scores]:
        labelled = self._builder.build(batch.examples, copies)
        forward_batch = labelled.forward_batch
        segments = forward_batch.batch_size // copies
        forward_batch.lora_ids = [slot_id for slot_id in self._slot_ids[:copies] for _ in range(segments)]
        self._manager.prepare_lora_batch(forward_batch)
        return labelled.split(self._scorer.score(labelled))

    def _fill_slots(self) -> None:
        """Let SGLang load the adapter into every slot: it checks it, and zeroes what has no weights."""
        for slot_id in self._slot_ids:
            result = self._manager.load_lora_adapter_from_tensors(
                LoRARef(lora_id=slot_id, lora_name=slot_id, lora_path=slot_id, pinned=False),
                {name: tensor.cpu() for name, tensor in self._adapter.tensors.items()},
                self._adapter.config.to_dict(),
            )
            if not result.success:
                raise UserError(f"SGLang refuses the adapter: {result.error_message}")
        self._manager.fetch_new_loras(set(self._slot_ids))

    def _places(self, name: str, slot_id: str) -> Iterator[torch.Tensor]:
        """Yield where in a slot a parameter lies: A in as many places as its module has stacked parts."""
        pool = self._manager.memory_pool
        slot, rank = pool.get_buffer_id(slot_id), self._adapter.config.r
        path = get_lora_module_name(name, self._manager.base_model).removeprefix("base_model.model.")
        module_path, _, _ = path.partition(".lora_")
        parent, _, leaf = module_path.rpartition(".")
        target = next((stack for stack, parts in STACKS.items() if leaf in parts), leaf)
        layer, module = self._find(f"{parent}.{target}")
        parts = STACKS.get(target, (leaf,))
        if ".lora_A." in path:
            buffer = pool.A_buffer[target][layer][slot]
            for i, part in enumerate(parts):
                if leaf in (part, target):
                    yield buffer[i * rank : (i + 1) * rank]
        else:
            buffer = pool.B_buffer[target][layer][slot][:, :rank]
            if leaf == target:
                yield buffer
            else:
                offsets, part = module.output_offset_cpu.tolist(), parts.index(leaf)
                yield buffer[offsets[part] : offsets[part + 1]]

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


def adapter_server_args(adapter: Adapter, pairs: int) -> dict[str, object]:
    """Return the ServerArgs for an adapter and `pairs` pairs a forward."""
    targets = {name.partition(".lora_")[0].rpartition(".")[2] for name in adapter.tensors}
    return {
        "enable_lora": True,
        "max_loras_per_batch": 2 * pairs,
        "max_loaded_loras": 2 * pairs,
        "max_lora_rank": adapter.config.r,
        "lora_target_modules": sorted(targets),
    }

"""Adapter training: theta + eps z and theta - eps z are two adapters in two slots of SGLang's LoRA pool.

The parameters are kept in fp32; slots have the model's dtype and are written from them, straight from the
noise. One forward evaluates as many pairs as there are slots for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from sglang.srt.lora.lora_manager import LoRAManager
from sglang.srt.lora.lora_registry import LoRARef
from sglang.srt.model_executor.model_runner import ModelRunner

from sglang_mezo_plugin.engine.batch.builder import LabelledBatch
from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.engine.graphs import Capture, GraphScorer, check_model
from sglang_mezo_plugin.engine.lora.backend import MirroredLoRABackend
from sglang_mezo_plugin.engine.lora.kernels import AdaptedColumns
from sglang_mezo_plugin.engine.lora.slots import SlotMap
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.peft_files import target_names
from sglang_mezo_plugin.noise import Distribution, Moves, PairPlan, Region, StepNumbers
from sglang_mezo_plugin.tasks.example import Batch
from sglang_mezo_plugin.training.objectives import Scores


class LoraCarrier(FrozenCarrier):
    """An adapter under training. Implements `carrier.Carrier`.

    The runner must have been opened with `adapter_server_args`; every second of its slots holds a +. Its
    layers add LoRA as `MirroredLoRABackend` does, unless it was opened with a `lora_backend`.

    capture: with it, what is scored for training is scored by graphs; see `GraphScorer`.
    """

    def __init__(self, model_runner: ModelRunner, adapter: Adapter, capture: Capture | None = None) -> None:
        super().__init__(model_runner)
        self._manager: LoRAManager = model_runner.lora_manager
        self._adapter = adapter.to(model_runner.device)
        self._slot_ids = self._fill_slots()
        slots = SlotMap(self._manager, adapter)
        # Mixtures of experts have LoRA kernels of their own, which go with SGLang's backends.
        if model_runner.server_args.lora_backend is None and not self._manager.lora_backend.is_moe_lora:
            adapted = {
                module: AdaptedColumns(parts, adapter.config.r, self._manager.device)
                for module, parts in slots.adapted.items()
            }
            MirroredLoRABackend(self._manager, adapted).install(self._manager)
        self._pairs = [
            PairPlan(
                [(p.slots[slot], p.slots[slot + 1], p.weight, p.region) for p in slots.pieces],
                adapter.distribution,
            )
            for slot in range(0, len(self._slot_ids) - 1, 2)
        ]
        self._numbers = StepNumbers(self._manager.device, room=0)
        self._weights = [piece.weight for piece in slots.pieces]
        self._first_slot = [piece.slots[0] for piece in slots.pieces]
        self.graphs: GraphScorer | None = None
        if capture is not None:
            check_model(model_runner)
            self.graphs = GraphScorer(self._builder, self._forward, capture)

    @property
    def distribution(self) -> Distribution:
        return self._adapter.distribution

    def score_pairs(self, batch: Batch, seeds: Sequence[int], eps: float) -> list[tuple[Scores, Scores]]:
        pairs: list[tuple[Scores, Scores]] = []
        room = len(self._pairs)
        for start in range(0, len(seeds), room):
            chunk = seeds[start : start + room]
            for plan, seed in zip(self._pairs, chunk, strict=False):
                self._numbers.set(seed, eps)
                plan.write(self._numbers)
            scores = self._score_moved(batch, copies=2 * len(chunk))
            pairs.extend(zip(scores[::2], scores[1::2], strict=True))
        return pairs

    def score_pair_at_rest(self, batch: Batch) -> tuple[Scores, Scores]:
        self._numbers.set(0, 0.0)
        self._pairs[0].write(self._numbers)
        plus, minus = self._score(batch, copies=2)
        return plus, minus

    def score_at(self, batch: Batch, seed: int, coefficient: float) -> Scores:
        """Score a batch at theta + coefficient * z: what `score_pairs` gives for one of its signs."""
        self._numbers.set(seed, coefficient)
        self._pairs[0].write(self._numbers)
        return self._score_moved(batch, copies=1)[0]

    def score(self, batch: Batch) -> Scores:
        torch._foreach_copy_(self._first_slot, self._weights)
        return self._score(batch, copies=1)[0]

    def step(self, moves: Moves, decay: float, rounding_seed: int) -> None:
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

    def _score_moved(self, batch: Batch, copies: int) -> list[Scores]:
        """Score copies of a batch, each with the slot of its number."""
        return self.graphs.score(batch.examples, copies) if self.graphs else self._score(batch, copies)

    def _score(self, batch: Batch, copies: int) -> list[Scores]:
        labelled = self._builder.build(batch.examples, copies)
        return labelled.split(self._forward(labelled))

    def _forward(self, labelled: LabelledBatch) -> torch.Tensor:
        forward_batch, copies = labelled.forward_batch, labelled.copies
        segments = forward_batch.batch_size // copies
        forward_batch.lora_ids = [slot_id for slot_id in self._slot_ids[:copies] for _ in range(segments)]
        self._manager.prepare_lora_batch(forward_batch)
        return self._scorer.score(labelled)

    def _fill_slots(self) -> list[str]:
        """Let SGLang load the adapter into every slot: it checks it, and zeroes what has no weights.

        Returns what it calls the slots, in their order in the pool.
        """
        slot_ids = [f"mezo-{slot}" for slot in range(self._manager.max_loras_per_batch)]
        for slot_id in slot_ids:
            result = self._manager.load_lora_adapter_from_tensors(
                LoRARef(lora_id=slot_id, lora_name=slot_id, lora_path=slot_id, pinned=False),
                {name: tensor.cpu() for name, tensor in self._adapter.tensors.items()},
                self._adapter.config.to_dict(),
            )
            if not result.success:
                raise UserError(f"SGLang refuses the adapter: {result.error_message}")
        self._manager.fetch_new_loras(set(slot_ids))
        return sorted(slot_ids, key=self._manager.memory_pool.get_buffer_id)


def adapter_server_args(adapter: Adapter, pairs: int) -> dict[str, object]:
    """Return the ServerArgs for an adapter and `pairs` pairs a forward."""
    return {
        "enable_lora": True,
        "max_loras_per_batch": 2 * pairs,
        "max_loaded_loras": 2 * pairs,
        "max_lora_rank": adapter.config.r,
        "lora_target_modules": sorted(target_names(adapter.tensors)),
    }

"""A batch of examples as one ForwardBatch, filled directly: no requests, no scheduler.

A training batch stands in it in several copies, one for each point at which it is scored: + and - of a pair,
or those of several pairs. All copies have the same tokens and lengths, so any tensor with a token dimension
splits into equal parts.

Within a copy, what sequences begin with alike is computed once. Their segments are separate "requests" whose
cached prefix is written by the same forward: in each layer, the attention backends named below put all new
keys and values into the pool before they read prefixes from it. Nothing is read that another copy or an
earlier forward has written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardBatch, ForwardMode
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from sglang_mezo_plugin.engine.batch.buckets import Shape
from sglang_mezo_plugin.engine.batch.drafts import Draft, fields
from sglang_mezo_plugin.engine.batch.packing import arrays, packed_size, views
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Example

# They store keys and values before they attend, for a whole layer at once.
PREFIX_REUSING_BACKENDS = ("torch_native", "triton", "fa3")


@dataclass(frozen=True)
class LabelledBatch:
    """A ForwardBatch, and where in its output the tokens lie whose log-probabilities are wanted.

    rows: int64 [R] on the device, token rows of a copy from which something is predicted, each once.
    targets, target_rows: int64 [N], the tokens predicted and for each its place in `rows`.
    counts: tokens of each option of each example, in order; their sum is N, or less where N is rounded up.
    """

    forward_batch: ForwardBatch
    copies: int
    rows: torch.Tensor
    targets: torch.Tensor
    target_rows: torch.Tensor
    counts: tuple[tuple[int, ...], ...]

    def split(self, logprobs: torch.Tensor) -> list[list[list[np.ndarray]]]:
        """Take fp32 [copies, N] to the host; return [copy][example][option] -> fp32 [tokens]."""
        flat = logprobs.cpu().numpy()
        ends = [0, *accumulate(count for counts in self.counts for count in counts)]
        by_option = [[copy[start:end] for start, end in pairwise(ends)] for copy in flat]
        return [self._by_example(options) for options in by_option]

    def _by_example(self, options: list[np.ndarray]) -> list[list[np.ndarray]]:
        remaining = iter(options)
        return [[next(remaining) for _ in counts] for counts in self.counts]


@dataclass(frozen=True)
class HostLengths:
    """Lengths of the segments of all copies, and of their prefixes, as attention backends have them on the
    host: to size what they allocate and launch. Upper bounds will do.
    """

    segments: list[int]
    prefixes: list[int]

    @classmethod
    def of(cls, draft: Draft, copies: int) -> HostLengths:
        segments = draft.tree.segments
        return cls([s.length for s in segments] * copies, [len(s.prefix) for s in segments] * copies)


class BatchBuilder:
    """Builds batches for a model runner whose pools nobody else uses."""

    def __init__(self, model_runner: ModelRunner) -> None:
        self._runner = model_runner
        self.device = torch.device(model_runner.device)
        self._reuses_prefixes = model_runner.prefill_attention_backend_str in PREFIX_REUSING_BACKENDS
        self.forget_counts()

    def forget_counts(self) -> None:
        """Let `hit_rate` begin anew."""
        self._computed = self._asked_for = 0

    @property
    def hit_rate(self) -> float:
        """The fraction of the tokens of all batches so far that did not need to be computed, in [0, 1)."""
        return 1 - self._computed / self._asked_for if self._asked_for else 0.0

    @property
    def context(self) -> int:
        """Tokens of the longest sequence that there is room for."""
        return self._runner.req_to_token_pool.req_to_token.shape[1]

    def draft(self, examples: Sequence[Example]) -> Draft:
        """Return the examples' numbers, and count what is reused."""
        draft = Draft.of(examples, self._reuses_prefixes)
        self._computed += len(draft.tree.tokens)
        self._asked_for += draft.asked_for
        return draft

    def build(self, examples: Sequence[Example], copies: int) -> LabelledBatch:
        """Return `copies` copies of the examples as one batch.

        Raises UserError if it does not fit into the pools.
        """
        draft = self.draft(examples)
        shape = draft.shape(copies)
        self.check_room(shape)
        tensors = views(self.pack(draft, shape).to(self.device, non_blocking=True), fields(shape))
        self.map_kv_slots(tensors, shape)
        return self.label(tensors, shape, HostLengths.of(draft, copies), draft.counts)

    def pack(self, draft: Draft, shape: Shape) -> torch.Tensor:
        """Return uint8 on the host, pinned for a GPU: the tensors `fields(shape)` of the batch."""
        fields_ = fields(shape)
        packed = torch.empty(packed_size(fields_), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        draft.fill(arrays(packed, fields_), shape)
        return packed

    def map_kv_slots(self, tensors: Mapping[str, torch.Tensor], shape: Shape) -> None:
        """Tell the pool which KV slots the sequences of a batch have. tensors: on the device."""
        slots = self._runner.req_to_token_pool.req_to_token
        rows = slots[1 : 1 + shape.copies * shape.segments, : shape.longest]
        by_copy = rows.unflatten(0, (shape.copies, shape.segments))
        torch.add(tensors["paths"], tensors["first_kv_slots"][:, None, None], out=by_copy)

    def label(
        self,
        tensors: Mapping[str, torch.Tensor],
        shape: Shape,
        lengths: HostLengths,
        counts: tuple[tuple[int, ...], ...],
    ) -> LabelledBatch:
        """Return the batch that has these tensors, on the device."""
        return LabelledBatch(
            forward_batch=self._forward_batch(tensors, lengths),
            copies=shape.copies,
            rows=tensors["rows"],
            targets=tensors["targets"],
            target_rows=tensors["target_rows"],
            counts=counts,
        )

    def check_room(self, shape: Shape) -> None:
        """Raise UserError if a batch does not fit into the pools."""
        for what, needed, room, option in (
            ("tokens", shape.copies * shape.tokens, self._runner.max_total_num_tokens, "--max-total-tokens"),
            (
                "sequences",
                shape.copies * shape.segments,
                self._runner.req_to_token_pool.size,
                "--max-running-requests",
            ),
        ):
            if needed > room:
                raise UserError(
                    f"a forward of {needed} {what} does not fit into the pool of {room}: raise {option}, or "
                    "lower --batch-size or --num-pairs"
                )

    def _forward_batch(self, tensors: Mapping[str, torch.Tensor], lengths: HostLengths) -> ForwardBatch:
        sequences, tokens = len(lengths.segments), len(tensors["input_ids"])
        seq_lens = torch.tensor(lengths.segments) + torch.tensor(lengths.prefixes)
        batch = ForwardBatch(
            forward_mode=ForwardMode.EXTEND,
            batch_size=sequences,
            input_ids=tensors["input_ids"],
            req_pool_indices=tensors["req_pool_indices"],
            req_pool_indices_cpu=torch.arange(1, sequences + 1),
            seq_lens=tensors["seq_lens"],
            seq_lens_cpu=seq_lens,
            seq_lens_sum=int(seq_lens.sum()),
            orig_seq_lens=tensors["orig_seq_lens"],
            out_cache_loc=tensors["out_cache_loc"],
            positions=tensors["positions"],
            extend_num_tokens=tokens,
            extend_seq_lens=tensors["extend_seq_lens"],
            extend_prefix_lens=tensors["extend_prefix_lens"],
            extend_start_loc=tensors["extend_start_loc"],
            extend_seq_lens_cpu=lengths.segments,
            extend_prefix_lens_cpu=lengths.prefixes,
            extend_logprob_start_lens_cpu=[0] * sequences,
            global_num_token_non_padded_cpu=tokens,
            is_prefill_only=True,
            is_extend_in_batch=True,
            capture_hidden_mode=CaptureHiddenMode.NULL,
            spec_algorithm=SpeculativeAlgorithm.NONE,
            lora_ids=[None] * sequences,
        )
        translator = self._runner.kv_index_translator
        translator.own_plan(batch).bind(batch, translator)
        return batch

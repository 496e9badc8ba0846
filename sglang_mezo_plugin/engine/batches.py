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

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from sglang.srt.model_executor.forward_batch_info import CaptureHiddenMode, ForwardBatch, ForwardMode
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

from sglang_mezo_plugin import prefix_tree
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.prefix_tree import PrefixTree
from sglang_mezo_plugin.tasks.example import Example

# They store keys and values before they attend, for a whole layer at once.
SHARING_BACKENDS = ("torch_native", "triton", "fa3")


@dataclass(frozen=True)
class LabelledBatch:
    """A ForwardBatch, and where in its output the tokens lie whose log-probabilities are wanted.

    rows: int64 [R] on the device, token rows of a copy from which something is predicted, each once.
    targets, target_rows: int64 [N], the tokens predicted and for each its place in `rows`.
    counts: tokens of each option of each example, in order; they sum to N.
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
        ends = list(accumulate(count for counts in self.counts for count in counts))
        pieces = [np.split(copy, ends[:-1]) for copy in flat]
        return [self._by_example(options) for options in pieces]

    def _by_example(self, options: list[np.ndarray]) -> list[list[np.ndarray]]:
        remaining = iter(options)
        return [[next(remaining) for _ in counts] for counts in self.counts]


class BatchBuilder:
    """Builds batches for a model runner whose pools nobody else uses."""

    def __init__(self, model_runner: ModelRunner) -> None:
        self._runner = model_runner
        self._device = model_runner.device
        self._shares = model_runner.prefill_attention_backend_str in SHARING_BACKENDS
        self._computed = self._asked_for = 0

    @property
    def hit_rate(self) -> float:
        """The share of the tokens of all batches so far that did not need to be computed, in [0, 1)."""
        return 1 - self._computed / self._asked_for if self._asked_for else 0.0

    def build(self, examples: Sequence[Example], copies: int) -> LabelledBatch:
        """Return `copies` copies of the examples as one batch.

        Raises UserError if it does not fit into the pools.
        """
        sequences = [example.prompt + option[:-1] for example in examples for option in example.options]
        tree = prefix_tree.build(sequences, self._shares)
        self._computed += len(tree.tokens)
        self._asked_for += sum(map(len, sequences))
        rows, targets, target_rows = _labelled(examples, tree)
        to_device = self._to_device
        return LabelledBatch(
            forward_batch=self._forward_batch(tree, copies),
            copies=copies,
            rows=to_device(rows),
            targets=to_device(targets),
            target_rows=to_device(target_rows),
            counts=tuple(tuple(len(option) for option in example.options) for example in examples),
        )

    def _forward_batch(self, tree: PrefixTree, copies: int) -> ForwardBatch:
        runner, segments, count = self._runner, tree.segments, len(tree.tokens)
        sequences, tokens = len(segments) * copies, count * copies
        self._check_room(sequences, tokens)
        prefixes = np.array([len(segment.prefix) for segment in segments] * copies)
        lengths = np.array([segment.length for segment in segments] * copies)
        position = np.concatenate([len(s.prefix) + np.arange(s.length) for s in segments])
        slots = self._slots(tree, copies, int((prefixes + lengths).max()))
        requests = np.arange(1, sequences + 1)  # row 0 of the pool is for padding
        to_device = self._to_device
        table = runner.req_to_token_pool.req_to_token
        table[1 : sequences + 1, : slots.shape[1]] = to_device(slots).to(table.dtype)
        seq_lens = torch.from_numpy(prefixes + lengths)
        batch = ForwardBatch(
            forward_mode=ForwardMode.EXTEND,
            batch_size=sequences,
            input_ids=to_device(np.tile(np.array(tree.tokens), copies)),
            req_pool_indices=to_device(requests),
            req_pool_indices_cpu=torch.from_numpy(requests),
            seq_lens=to_device(seq_lens.numpy()),
            seq_lens_cpu=seq_lens,
            seq_lens_sum=int(seq_lens.sum()),
            orig_seq_lens=to_device(seq_lens.numpy()).to(torch.int32),
            out_cache_loc=to_device(np.arange(1, tokens + 1)),  # slot 0 is for padding
            positions=to_device(np.tile(position, copies)),
            extend_num_tokens=tokens,
            extend_seq_lens=to_device(lengths).to(torch.int32),
            extend_prefix_lens=to_device(prefixes).to(torch.int32),
            extend_start_loc=to_device(np.cumsum(lengths) - lengths).to(torch.int32),
            extend_seq_lens_cpu=lengths.tolist(),
            extend_prefix_lens_cpu=prefixes.tolist(),
            extend_logprob_start_lens_cpu=[0] * sequences,
            global_num_token_non_padded_cpu=tokens,
            is_prefill_only=True,
            is_extend_in_batch=True,
            capture_hidden_mode=CaptureHiddenMode.NULL,
            spec_algorithm=SpeculativeAlgorithm.NONE,
            lora_ids=[None] * sequences,
        )
        translator = runner.kv_index_translator
        translator.own_plan(batch).bind(batch, translator)
        return batch

    def _slots(self, tree: PrefixTree, copies: int, longest: int) -> np.ndarray:
        """Return the KV slots of each request's tokens: [segments * copies, longest]."""
        first = np.zeros((len(tree.segments), longest), np.int64)
        for row, segment in zip(first, tree.segments, strict=True):
            path = [*segment.prefix, *range(segment.start, segment.start + segment.length)]
            row[: len(path)] = path
        shift = 1 + len(tree.tokens) * np.arange(copies)
        return (first + shift[:, None, None]).reshape(-1, longest)

    def _check_room(self, sequences: int, tokens: int) -> None:
        for what, needed, room, option in (
            ("tokens", tokens, self._runner.max_total_num_tokens, "--max-total-tokens"),
            ("sequences", sequences, self._runner.req_to_token_pool.size, "--max-running-requests"),
        ):
            if needed > room:
                raise UserError(
                    f"a forward of {needed} {what} does not fit into the pool of {room}: raise {option}, or "
                    "lower --batch-size or --num-pairs"
                )

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(self._device, non_blocking=True)


def _labelled(examples: Sequence[Example], tree: PrefixTree) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows that predict options' tokens, the tokens, and each one's place among the rows."""
    predicting: list[int] = []
    targets: list[int] = []
    paths = iter(tree.paths)
    for example in examples:
        for option in example.options:
            predicting.extend(next(paths)[len(example.prompt) - 1 :])
            targets.extend(option)
    rows, target_rows = np.unique(np.array(predicting), return_inverse=True)
    return rows, np.array(targets), target_rows

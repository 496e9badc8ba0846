"""Log-probabilities of the labelled positions, through the model's own logits processor.

The processor of a served model prunes hidden states by request and materialises logits for the rest. Here the
labelled rows are picked by index, wherever they lie, and nothing of size [tokens, vocabulary] ever exists:
rows are taken in chunks, or, where the head itself is perturbed, the vocabulary in blocks of its rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.layers.logits_processor import LogitsMetadata, LogitsProcessor, LogitsProcessorOutput
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.runtime_context import get_parallel

from sglang_mezo_plugin.engine.batch.builder import LabelledBatch
from sglang_mezo_plugin.errors import UserError

CHUNK = 1 << 26  # logits that exist at a time; 256 MiB in fp32

# Yields, block by block of this rank's part of the vocabulary: its first token, and the block's weights for
# each copy. They are good until the next block is asked for.
HeadBlocks = Callable[[torch.nn.Module], Iterator[tuple[int, list[torch.Tensor]]]]


class Scorer:
    """Runs the model on labelled batches. It takes the place of the logits processor's `forward`."""

    def __init__(self, model_runner: ModelRunner) -> None:
        self._runner = model_runner
        processors = [m for m in model_runner.model.modules() if isinstance(m, LogitsProcessor)]
        if len(processors) != 1:
            raise UserError(
                f"{type(model_runner.model).__name__} has {len(processors)} logits processors: train a plain "
                "causal language model"
            )
        self._processor = processors[0]
        self._processor.forward = self._process
        self._group = get_parallel().tp_group
        self._batch: LabelledBatch | None = None
        self._head_blocks: HeadBlocks | None = None

    @torch.no_grad()
    def score(self, batch: LabelledBatch, head_blocks: HeadBlocks | None = None) -> torch.Tensor:
        """Return fp32 [copies, N] on the device: the targets' log-probabilities.

        head_blocks: where each copy has a head of its own; otherwise the model's.
        """
        self._batch, self._head_blocks = batch, head_blocks
        # A copy: what a forward notes in it must not reach the next one.
        output = self._runner.forward(dataclasses.replace(batch.forward_batch)).logits_output
        return output.input_token_logprobs

    def _process(
        self,
        input_ids: torch.Tensor,
        hidden_states: torch.Tensor,
        lm_head: torch.nn.Module,
        forward_batch: Any,
        *unused: Any,
        **unused_by_name: Any,
    ) -> LogitsProcessorOutput:
        batch = self._batch
        metadata = LogitsMetadata.from_forward_batch(forward_batch)
        states = hidden_states.view(batch.copies, -1, hidden_states.shape[-1])[:, batch.rows]
        if self._head_blocks is None:
            logprobs = [self._by_rows(batch, copy, lm_head, metadata) for copy in states]
        else:
            logprobs = self._by_blocks(batch, states, self._head_blocks(lm_head), metadata)
        return LogitsProcessorOutput(next_token_logits=None, input_token_logprobs=torch.stack(logprobs))

    def _by_rows(
        self, batch: LabelledBatch, states: torch.Tensor, lm_head: torch.nn.Module, metadata: LogitsMetadata
    ) -> torch.Tensor:
        """Score one copy: states [R, hidden] -> [N]."""
        size = max(1, CHUNK // self._processor.vocab_size)
        if len(states) <= size:
            logits = self._logits(states, lm_head, metadata)
            return _logprobs(logits, batch.target_rows, batch.targets)
        logprobs = torch.zeros_like(batch.targets, dtype=torch.float32)
        for start in range(0, len(states), size):
            logits = self._logits(states[start : start + size], lm_head, metadata)
            rows = batch.target_rows - start
            # Choosing by indices would need the host to wait for their number.
            inside = (rows >= 0) & (rows < len(logits))
            logprobs += _logprobs(logits, rows.where(inside, 0), batch.targets).where(inside, 0)
        return logprobs

    def _by_blocks(
        self,
        batch: LabelledBatch,
        states: torch.Tensor,
        blocks: Iterator[tuple[int, list[torch.Tensor]]],
        metadata: LogitsMetadata,
    ) -> list[torch.Tensor]:
        """Score all copies: states [copies, R, hidden] -> copies x [N].

        Every rank goes through the blocks of its own part of the vocabulary; then they tell each other.
        """
        norms = states.new_full(states.shape[:2], -torch.inf, dtype=torch.float32)
        chosen = torch.zeros(len(states), len(batch.targets), dtype=torch.float32, device=states.device)
        with self._without_gathering():
            for start, weights in blocks:
                inside = (batch.targets >= start) & (batch.targets < start + len(weights[0]))
                column = torch.where(inside, batch.targets - start, 0)
                for copy, weight in enumerate(weights):
                    logits = self._logits(states[copy], SimpleNamespace(weight=weight), metadata)
                    norms[copy] = torch.logaddexp(norms[copy], logits.logsumexp(-1))
                    chosen[copy] += torch.where(inside, logits[batch.target_rows, column], 0)
        if self._group.world_size > 1:
            both = torch.cat((norms, chosen), dim=1)
            parts = self._group.all_gather(both, dim=0).view(self._group.world_size, *both.shape)
            norms = parts[:, :, : norms.shape[1]].logsumexp(0)
            chosen = parts[:, :, norms.shape[1] :].sum(0)
        return list(chosen - norms[:, batch.target_rows])

    @contextmanager
    def _without_gathering(self) -> Iterator[None]:
        """Let the processor return the logits of this rank's part of the vocabulary alone."""
        gathers = self._processor.do_tensor_parallel_all_gather
        self._processor.do_tensor_parallel_all_gather = False
        try:
            yield
        finally:
            self._processor.do_tensor_parallel_all_gather = gathers

    def _logits(self, states: torch.Tensor, lm_head: Any, metadata: LogitsMetadata) -> torch.Tensor:
        return self._processor._get_logits(states, lm_head, metadata).float()


def _logprobs(logits: torch.Tensor, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits[rows, targets] - logits.logsumexp(-1)[rows]

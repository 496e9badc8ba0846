"""Log-probabilities of prompts, from the model's own logits processor."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from types import SimpleNamespace

import torch
from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.sampling.sampling_params import SamplingParams
from sglang.srt.speculative.spec_info import SpeculativeAlgorithm


@torch.no_grad()
def prompt_logprobs(model_runner: ModelRunner, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Score token ids in one forward pass, and leave nothing of them in the caches.

    Returns for each prompt a float32 tensor [len(prompt) - 1] on the CPU: the log-probability of each of its
    tokens but the first, given those before it.
    """
    reqs = [_request(i, prompt) for i, prompt in enumerate(prompts)]
    batch = ScheduleBatch.init_new(
        reqs=reqs,
        req_to_token_pool=model_runner.req_to_token_pool,
        token_to_kv_pool_allocator=model_runner.token_to_kv_pool_allocator,
        tree_cache=_no_prefix_cache(model_runner),
        model_config=model_runner.model_config,
        enable_overlap=False,
        spec_algorithm=SpeculativeAlgorithm.NONE,
    )
    batch.prepare_for_extend()
    batch.input_ids = batch.prefill_input_ids_cpu.to(batch.device)
    forward_batch = ForwardBatch.init_new(batch, model_runner, return_hidden_states_before_norm=False)
    output = model_runner.forward(forward_batch).logits_output
    output.finalize_input_logprobs()
    per_prompt = torch.as_tensor(output.input_token_logprobs).cpu().split([len(p) for p in prompts])
    model_runner.req_to_token_pool.clear()
    model_runner.token_to_kv_pool_allocator.clear()
    return [logprobs[:-1] for logprobs in per_prompt]  # the last entry belongs to no token of the prompt


def _request(index: int, prompt: Sequence[int]) -> Req:
    request = Req(
        rid=str(index),
        origin_input_text="",
        origin_input_ids=array("q", prompt),
        sampling_params=SamplingParams(temperature=0, max_new_tokens=0),
        return_logprob=True,
    )
    request.full_untruncated_fill_ids = request.origin_input_ids
    request.logprob_start_len = 0
    request.extend_end = len(prompt)
    return request


def _no_prefix_cache(model_runner: ModelRunner) -> SimpleNamespace:
    """What ScheduleBatch asks of a prefix cache when there is none: room is never made by eviction."""
    allocator = model_runner.token_to_kv_pool_allocator
    return SimpleNamespace(
        page_size=allocator.page_size,
        device=model_runner.device,
        token_to_kv_pool_allocator=allocator,
        supports_swa=lambda: False,
        supports_mamba=lambda: False,
        supports_prefix_sharing=lambda: True,
        evict=lambda params: None,
        maybe_hand_to_session=lambda request: None,
    )

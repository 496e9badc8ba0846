"""Build SGLang's ModelRunner in this process, and close it so that another can be built.

    with open_runner("facebook/opt-125m", device="cpu") as model_runner:
        ...

The steps are those of SGLang's scheduler process, without scheduler, tokenizer or HTTP. They differ from
release to release, which is why all of them are here.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from sglang.srt.configs.model_config import ModelConfig
from sglang.srt.distributed import bootstrap
from sglang.srt.distributed.parallel_state import destroy_distributed_environment, destroy_model_parallel
from sglang.srt.layers.moe import initialize_moe_config
from sglang.srt.layers.quantization.fp4_utils import initialize_fp4_gemm_config
from sglang.srt.layers.quantization.fp8_utils import initialize_fp8_gemm_config
from sglang.srt.layers.quantization.unquant import initialize_bf16_gemm_config
from sglang.srt.model_executor.model_runner import ModelRunner
from sglang.srt.runtime_context import SpawnRanks, get_device, publish, reset_context, spawn_world_rank
from sglang.srt.server_args import PortArgs, ServerArgs
from sglang.srt.utils.common import get_available_gpu_memory

from sglang_mezo_plugin.engine.one_layer_pool import one_layer_for_all
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import checkpoint_dtype, find_checkpoint, one_line
from sglang_mezo_plugin.patching.series import require_patched

# What a host without a GPU needs; the user's own words win.
DEFAULTS = {"disable_cuda_graph": True, "enable_fp32_lm_head": True, "log_level": "warning"}
PORT_ATTEMPTS = 3
CPU_DEFAULTS = {"attention_backend": "torch_native", "sampling_backend": "pytorch", "grammar_backend": "none"}


@contextmanager
def open_runner(
    model_path: str, *, tp_rank: int = 0, gpu_id: int = 0, dist_port: int | None = None, **server_args: Any
) -> Iterator[ModelRunner]:
    """A ModelRunner for `model_path`, with its memory pools and attention backend, to score whole batches.

    All layers share one layer's keys and values: nothing can be generated, nor cached from batch to batch.

    `server_args` are SGLang's own `ServerArgs`, under their names. CUDA graphs are off unless asked for:
    they freeze the parameters that they were captured with. The dtype is the checkpoint's own, where SGLang's
    `auto` would turn fp32 into fp16, and the head's logits are fp32: a difference of two losses over 2 eps
    multiplies rounding by hundreds.

    tp_rank, dist_port: where tp_size is above 1, which of the shards to load, and the port on this host where
    the shards meet. gpu_id: which GPU to use.

    Variables of a launcher (RANK, MASTER_PORT, ...) change nothing, and a port that is in use is not an
    error: another one is taken, unless it was given. Raises PatchError for an SGLang without the patches,
    before any weight is loaded, and UserError for what the device has no memory for.
    """
    require_patched()
    if server_args.get("device", _default_device()) == "cpu":
        server_args = {"device": "cpu", **CPU_DEFAULTS, **server_args}
    if server_args.get("dtype", "auto") == "auto":
        dtype = checkpoint_dtype(find_checkpoint(model_path))
        server_args = {**server_args, "dtype": str(dtype).removeprefix("torch.")}
    if server_args["dtype"] in ("float32", "float") and server_args.get("device") != "cpu":
        # Set for good: layers choose when they first run. Fused norms for CUDA take 16 bits only.
        os.environ.setdefault("SGLANG_FORCE_FUSED_OP_BACKEND", "torch")
    try:
        yield _build({**DEFAULTS, "model_path": model_path, **server_args}, tp_rank, gpu_id, dist_port)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{str(error).split('. ')[0]}: pass a smaller --batch-size or --dtype, or free the GPU"
        ) from error
    finally:
        _release_process()


def free_memory(device: str, gpu_id: int = 0) -> float:
    """Return the bytes that SGLang would find free on a device, which becomes this process's own."""
    if device == "cuda":
        torch.cuda.set_device(gpu_id)
    return get_available_gpu_memory(device, gpu_id) * 2**30


def _default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _build(server_args: dict[str, Any], tp_rank: int, gpu_id: int, dist_port: int | None) -> ModelRunner:
    """Build a runner, with another port if somebody was quicker to take the one that was free."""
    for attempt in range(PORT_ATTEMPTS):
        args = ServerArgs(**server_args)
        args.resolve_once()
        if args.enable_lora or args.lora_paths:
            args.check_server_args()
        try:
            return _build_once(args, tp_rank, gpu_id, dist_port or PortArgs.init_new(args).nccl_port)
        except torch.distributed.DistNetworkError as error:
            if dist_port is not None:
                raise UserError(
                    f"shard {tp_rank} did not meet the others at port {dist_port} ({one_line(error)}): start "
                    "the command again, which takes another port"
                ) from error
            if attempt == PORT_ATTEMPTS - 1:
                raise
            _release_process()
    raise AssertionError("unreachable")


def _build_once(args: ServerArgs, tp_rank: int, gpu_id: int, dist_port: int) -> ModelRunner:
    # Of torchrun: it would have the shards meet at a store that nobody serves.
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
    ranks = SpawnRanks(world_rank=spawn_world_rank(args, tp_rank=tp_rank, pp_rank=0), gpu_id=gpu_id)
    publish(args, role="scheduler", ranks=ranks)
    initialize_moe_config()
    initialize_fp8_gemm_config()
    initialize_bf16_gemm_config()
    initialize_fp4_gemm_config()
    model_config = ModelConfig.from_server_args(args)
    bootstrap.init_parallel_runtime(server_args=args, device=get_device().device, dist_port=dist_port)
    bootstrap.init_layer_runtime(model_config=model_config)
    model_runner = ModelRunner(
        model_config=model_config,
        mem_fraction_static=args.mem_fraction_static,
        gpu_id=gpu_id,
        nccl_port=dist_port,
        server_args=args,
    )
    with one_layer_for_all():
        model_runner.alloc_memory_pool()
    model_runner.init_attention_backends()
    model_runner.init_cuda_graphs()
    return model_runner


def _release_process() -> None:
    """Undo what a ModelRunner leaves in the process: distributed groups, published context, memory."""
    destroy_model_parallel()
    destroy_distributed_environment()
    reset_context()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

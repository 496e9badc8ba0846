"""From a checkpoint, and an adapter or none, to a carrier in a running engine."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from sglang.srt.server_args import ServerArgs
from transformers import AutoConfig

from sglang_mezo_plugin.engine.batch.buckets import bucket_room
from sglang_mezo_plugin.engine.batch.builder import PREFIX_REUSING_BACKENDS
from sglang_mezo_plugin.engine.dense import carrier as dense_carrier
from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.engine.graphs import check_options
from sglang_mezo_plugin.engine.lora.carrier import adapter_server_args
from sglang_mezo_plugin.engine.opening import gpu_of, make_opening, open_share
from sglang_mezo_plugin.engine.ranks.carrier import RankedCarrier, RankedOptimizer
from sglang_mezo_plugin.engine.ranks.layout import Layout
from sglang_mezo_plugin.engine.ranks.leader import Ranks
from sglang_mezo_plugin.engine.ranks.worker import follow
from sglang_mezo_plugin.engine.room import Room, fitting_batches, largest_batch, pool_args, room_of
from sglang_mezo_plugin.engine.runner import free_memory
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.noise import Distribution
from sglang_mezo_plugin.tasks.example import Batch, Example
from sglang_mezo_plugin.training.objectives import Objective, Scores, metrics
from sglang_mezo_plugin.training.optimizers import Optimizer

MAX_PAIRS = 4  # a forward, unless --max-loras-per-batch says otherwise


@dataclasses.dataclass(frozen=True)
class Session:
    """A carrier, and the pools that it works in."""

    carrier: FrozenCarrier | RankedCarrier
    room: Room
    reuses_prefixes: bool
    pools: dict[str, Any]

    def score(self, examples: Sequence[Example]) -> Iterator[tuple[list[Example], Scores]]:
        """Score examples at theta, in order, in batches that fit into the pools."""
        fitting = fitting_batches(examples, self.room, self.reuses_prefixes)
        batches = [Batch(tuple(batch), identity="") for batch in fitting]
        ranked = isinstance(self.carrier, RankedCarrier)
        scores = self.carrier.score_all(batches) if ranked else map(self.carrier.score, batches)
        yield from zip(fitting, scores, strict=True)

    def spread(self, optimizer: Optimizer) -> Optimizer:
        """Return an optimizer for this session's carrier, with its state on all ranks."""
        return RankedOptimizer(optimizer) if isinstance(self.carrier, RankedCarrier) else optimizer

    def evaluate(self, objective: Objective, examples: Sequence[Example]) -> dict[str, float]:
        """Return the metrics of examples at theta."""
        return metrics(objective, self.score(examples))


@contextmanager
def open_session(
    checkpoint: Path,
    adapter: Adapter | None,
    *,
    trains: bool,
    examples: Sequence[Example],
    batch_size: int,
    num_pairs: int = 1,
    distribution: Distribution = "gaussian",
    eval_examples: Sequence[Example] = (),
    device: str | None = None,
    dtype: torch.dtype,
    server_args: Sequence[str] = (),
    report: Callable[[str], None] = print,
    ranks: Ranks | None = None,
    cuda_graph: bool = False,
) -> Iterator[Session]:
    """Load a model and yield a session for it: the adapter, every weight, or, if not `trains`, no parameters.

    examples, eval_examples: all that will be scored; `batch_size` of `examples` at a time. distribution: of
    the directions along which every weight moves; an adapter has its own. server_args: words of SGLang's own
    command line. report: is told what the pools are. ranks: by default those of the
    options tp_size and dp_size. cuda_graph: score pairs by CUDA graphs. Raises UserError before any weight is
    loaded if weights and pools do not fit, for devices that are not there, or for an option that SGLang does
    not know.
    """
    given = _parse_server_args(server_args)
    tp_size, dp_size = given.pop("tp_size", 1), given.pop("dp_size", 1)
    ranks = ranks or Ranks(Layout(tp_size, dp_size), follow)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_devices(ranks.layout, checkpoint, device, given)
    replica_pairs = -(-num_pairs // ranks.layout.dp_size)
    pairs = max(1, given.get("max_loras_per_batch", 2 * min(replica_pairs, MAX_PAIRS)) // 2)
    copies = 1 if not trains else 2 if adapter is None else 2 * min(pairs, replica_pairs)
    backend = given.get("attention_backend", "torch_native" if device == "cpu" else None)
    reuses_prefixes = backend in PREFIX_REUSING_BACKENDS
    if cuda_graph:
        check_options(
            device=device,
            attention_backend=backend,
            lora_backend=given.get("lora_backend"),
            tp_size=ranks.layout.tp_size,
        )
    room = largest_batch(examples, batch_size, reuses_prefixes)
    room = (bucket_room(room) if cuda_graph else room) * copies
    for example in eval_examples:
        room |= room_of(example, reuses_prefixes)
    slots, mode_args = 0, dense_carrier.SERVER_ARGS if trains else {}
    if adapter is not None:
        mode_args = adapter_server_args(adapter, pairs)
        slots = 2 * pairs * 3 * sum(tensor.numel() for tensor in adapter.tensors.values())
    free = free_memory(device, gpu_of(0, given))
    pools = {**pool_args(checkpoint, dtype, room, slots, free, ranks.layout.tp_size), **given}
    report(
        f"pools: {pools['max_total_tokens']} tokens, {pools['max_running_requests']} sequences, "
        f"mem_fraction_static {pools['mem_fraction_static']}"
    )
    options = {
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "skip_tokenizer_init": True,
        **mode_args,
        **pools,
    }
    # The last token of a sequence is predicted from those before it.
    longest = max(example.length - 1 for example in (*examples, *eval_examples))
    opening = make_opening(
        checkpoint, adapter, trains, ranks.layout, options, cuda_graph, distribution, longest
    )
    with ranks.open():
        ranks.tell(range(1, ranks.layout.size), opening)
        with open_share(opening, rank=0) as share, ranks.leading():
            carrier = share.carrier if ranks.layout.size == 1 else RankedCarrier(share, ranks)
            yield Session(carrier, room, reuses_prefixes, pools)


def _check_devices(layout: Layout, checkpoint: Path, device: str, given: Mapping[str, Any]) -> None:
    gpus = gpu_of(layout.size - 1, given) + 1
    if device == "cuda" and gpus > (found := torch.cuda.device_count()):
        raise UserError(
            f"--tp-size {layout.tp_size} and --dp-size {layout.dp_size} take {gpus} GPUs, and {found} are "
            "here: lower one of them"
        )
    if layout.tp_size == 1:
        return
    config = AutoConfig.from_pretrained(checkpoint)
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    if heads % layout.tp_size or (kv_heads % layout.tp_size and layout.tp_size % kv_heads):
        raise UserError(
            f"--tp-size {layout.tp_size} does not divide the {heads} attention heads, {kv_heads} of keys and "
            f"values, of {checkpoint}: choose another"
        )


class _ServerArgsParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: neither an option of this command nor of SGLang: see --help")


def _parse_server_args(words: Sequence[str]) -> dict[str, Any]:
    """Return the ServerArgs that these words set, and no defaults."""
    if not words:
        return {}
    parser = _ServerArgsParser(argument_default=argparse.SUPPRESS, allow_abbrev=False, add_help=False)
    ServerArgs.add_cli_args(parser)
    for action in parser._actions:
        action.default = argparse.SUPPRESS
        action.required = False
    given = vars(parser.parse_args(list(words)))
    for name in ("pp_size", "nnodes"):
        if given.get(name, 1) > 1:
            raise UserError(
                f"--{name.replace('_', '-')} {given[name]}: a model's layers stay together, on one host: "
                "pass --tp-size in its place"
            )
    if given.get("max_loras_per_batch", 2) < 2:
        raise UserError("--max-loras-per-batch must be 2 or more, a slot for each sign: raise it")
    return given

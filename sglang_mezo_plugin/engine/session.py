"""From a checkpoint, and an adapter or none, to a carrier in a running engine."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from sglang.srt.server_args import ServerArgs

from sglang_mezo_plugin.adapter import Adapter
from sglang_mezo_plugin.engine.batches import SHARING_BACKENDS
from sglang_mezo_plugin.engine.dense import DenseCarrier
from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.engine.lora import LoraCarrier, adapter_server_args
from sglang_mezo_plugin.engine.runner import free_memory, open_runner
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.losses import Objective, Scores, metrics
from sglang_mezo_plugin.memory_plan import Room, largest_batch, pack, pool_args, room_of
from sglang_mezo_plugin.tasks.example import Batch, Example

MAX_PAIRS = 4  # a forward, unless --max-loras-per-batch says otherwise


@dataclasses.dataclass(frozen=True)
class Session:
    """A carrier, and the pools that it works in."""

    carrier: FrozenCarrier
    room: Room
    shares: bool
    pools: dict[str, Any]

    def score(self, examples: Sequence[Example]) -> Iterator[tuple[list[Example], Scores]]:
        """Score examples at theta, in order, in batches that fit into the pools."""
        for batch in pack(examples, self.room, self.shares):
            yield batch, self.carrier.score(Batch(tuple(batch), identity=""))

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
    eval_examples: Sequence[Example] = (),
    device: str | None = None,
    dtype: torch.dtype,
    server_args: Sequence[str] = (),
    report: Callable[[str], None] = print,
) -> Iterator[Session]:
    """Load a model and yield a session for it: the adapter, every weight, or, if not `trains`, no parameters.

    examples, eval_examples: all that will be scored; `batch_size` of `examples` at a time. server_args: words
    of SGLang's own command line. report: is told what the pools are. Raises UserError before any weight is
    loaded if weights and pools do not fit, or for an option that SGLang does not know.
    """
    given = _parse_server_args(server_args)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    pairs = max(1, given.get("max_loras_per_batch", 2 * min(num_pairs, MAX_PAIRS)) // 2)
    copies = 1 if not trains else 2 if adapter is None else 2 * min(pairs, num_pairs)
    backend = given.get("attention_backend", "torch_native" if device == "cpu" else None)
    shares = backend in SHARING_BACKENDS
    room = largest_batch(examples, batch_size, shares) * copies
    for example in eval_examples:
        room |= room_of(example, shares)
    slots, lora_args = 0, {}
    if adapter is not None:
        lora_args = adapter_server_args(adapter, pairs)
        slots = 2 * pairs * 3 * sum(tensor.numel() for tensor in adapter.tensors.values())
    pools = {**pool_args(checkpoint, dtype, room, slots, free_memory(device)), **given}
    report(
        f"pools: {pools['max_total_tokens']} tokens, {pools['max_running_requests']} sequences, "
        f"mem_fraction_static {pools['mem_fraction_static']}"
    )
    options = {
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "skip_tokenizer_init": True,
        **lora_args,
        **pools,
    }
    with open_runner(str(checkpoint), **options) as runner:
        if adapter is not None:
            carrier: FrozenCarrier = LoraCarrier(runner, adapter)
        else:
            carrier = DenseCarrier(runner, checkpoint) if trains else FrozenCarrier(runner)
        yield Session(carrier, room, shares, pools)


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
    for name in ("tp_size", "dp_size", "pp_size"):
        if given.get(name, 1) > 1:
            raise UserError(
                f"--{name.replace('_', '-')} {given[name]}: training runs on one device: leave it out"
            )
    return given

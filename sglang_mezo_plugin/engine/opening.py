"""How each rank of a run opens its share: a model, and an adapter or none, in a running engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang.srt.utils.network import get_free_port_below_ephemeral

from sglang_mezo_plugin.engine.dense.carrier import DenseCarrier
from sglang_mezo_plugin.engine.frozen import FrozenCarrier
from sglang_mezo_plugin.engine.graphs import CudaCapture
from sglang_mezo_plugin.engine.lora.carrier import LoraCarrier
from sglang_mezo_plugin.engine.ranks.layout import Layout
from sglang_mezo_plugin.engine.ranks.share import Share
from sglang_mezo_plugin.engine.runner import open_runner
from sglang_mezo_plugin.engine.soundness.attention import refuse_unlike_attention
from sglang_mezo_plugin.engine.soundness.loading import refuse_dropped, watched_loading
from sglang_mezo_plugin.engine.soundness.pairs import refuse_unlike_pairs
from sglang_mezo_plugin.engine.soundness.reading import refuse_unread
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.noise import Distribution
from sglang_mezo_plugin.tasks.example import Batch, Example

# The shortest there is: pools have room for it, and which weights are read does not depend on tokens.
GLANCE = Batch.of([Example((0,), ((0,),), 0)])


@dataclass(frozen=True)
class Opening:
    """What all ranks are to open; rank 0 sends it to the others.

    options: keyword arguments of SGLang's ServerArgs, but for tp_size. ports: for each replica, where its
    shards meet; None if it has just one. cuda_graph: whether pairs are scored by CUDA graphs.
    distribution: of the directions along which every weight moves; an adapter has its own. longest: tokens
    of the longest sequence that will be scored.
    """

    checkpoint: Path
    adapter: Adapter | None
    trains: bool
    layout: Layout
    options: Mapping[str, Any]
    ports: tuple[int | None, ...]
    cuda_graph: bool
    distribution: Distribution
    longest: int


def gpu_of(rank: int, options: Mapping[str, Any]) -> int:
    """Return the GPU of a rank, as CUDA counts those that are visible: in order from SGLang's base_gpu_id."""
    return options.get("base_gpu_id", 0) + rank * options.get("gpu_id_step", 1)


def make_opening(
    checkpoint: Path,
    adapter: Adapter | None,
    trains: bool,
    layout: Layout,
    options: Mapping[str, Any],
    cuda_graph: bool,
    distribution: Distribution,
    longest: int,
) -> Opening:
    """Return an opening with free ports."""
    ports = [get_free_port_below_ephemeral() if layout.tp_size > 1 else None for _ in range(layout.dp_size)]
    return Opening(
        checkpoint, adapter, trains, layout, options, tuple(ports), cuda_graph, distribution, longest
    )


@contextmanager
def open_share(opening: Opening, rank: int) -> Iterator[Share]:
    """Load a rank's part of the model and yield what the rank does with it.

    UserError for a model that the engine would compute otherwise than its checkpoint says.
    """
    replica, shard = divmod(rank, opening.layout.tp_size)
    with ExitStack() as stack:
        with watched_loading() as watch:
            runner = stack.enter_context(
                open_runner(
                    str(opening.checkpoint),
                    tp_rank=shard,
                    gpu_id=gpu_of(rank, opening.options),
                    dist_port=opening.ports[replica],
                    tp_size=opening.layout.tp_size,
                    **opening.options,
                )
            )
        refuse_dropped(runner.model, watch.untaken, opening.checkpoint)
        refuse_unlike_attention(runner, opening.longest)
        capture = CudaCapture() if opening.cuda_graph else None
        if opening.adapter is not None:
            carrier: FrozenCarrier = LoraCarrier(runner, opening.adapter, capture)
        elif opening.trains:
            carrier = DenseCarrier(runner, opening.checkpoint, opening.distribution, capture)
        else:
            carrier = FrozenCarrier(runner)
        refuse_unread(runner.model, lambda: carrier.score(GLANCE), watch.converted)
        if opening.trains:
            refuse_unlike_pairs(carrier, GLANCE, runner.dtype)
        carrier.forget_counts()
        yield Share(runner, carrier, opening.checkpoint)

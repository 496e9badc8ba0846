"""A batch's whole forward as one CUDA graph: captured once for each bucket of shapes, then replayed.

At small sizes a step's time is the host's: launching kernels takes longer than running them. A graph is
launched at once. It can be used where nothing but the contents of memory differs from step to step: an
adapter's slots are written before the forward, weights are moved and perturbed by a step's numbers on the
device, and a batch is rounded up to its bucket. Its numbers go to the same place each time, by one copy.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
from sglang.srt.model_executor.model_runner import ModelRunner

from sglang_mezo_plugin.engine.batch.buckets import Shape, bucket_of
from sglang_mezo_plugin.engine.batch.builder import BatchBuilder, HostLengths, LabelledBatch
from sglang_mezo_plugin.engine.batch.drafts import Draft, fields
from sglang_mezo_plugin.engine.batch.packing import packed_size, views
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import one_line
from sglang_mezo_plugin.tasks.example import Example
from sglang_mezo_plugin.training.objectives import Scores

MOST_GRAPHS = 32
WARM_UPS = 2  # what is compiled, tuned or allocated when it first runs cannot be captured

Forward = Callable[[], torch.Tensor]
Capture = Callable[[Forward], Forward]
"""Takes a forward and returns what does the same again, with the same memory; both return its output."""


@dataclasses.dataclass(frozen=True)
class _Captured:
    """packed: the memory that the graph reads a batch from; `tensors` are its views."""

    packed: torch.Tensor
    tensors: Mapping[str, torch.Tensor]
    batch: LabelledBatch
    replay: Forward


class GraphScorer:
    """Scores batches by graphs, of which it keeps those that were last used.

    forward: runs the model on a batch; returns fp32 [copies, N] on the device. It must not read from the host
    what differs between batches of one shape.
    """

    def __init__(
        self,
        builder: BatchBuilder,
        forward: Callable[[LabelledBatch], torch.Tensor],
        capture: Capture,
        most: int = MOST_GRAPHS,
    ) -> None:
        self._builder, self._forward, self._capture, self._most = builder, forward, capture, most
        self._captured: OrderedDict[Shape, _Captured] = OrderedDict()
        self._captures = self._replays = 0

    @property
    def captures(self) -> int:
        """How often a graph was captured."""
        return self._captures

    @property
    def replays(self) -> int:
        """How many forwards graphs have run."""
        return self._replays

    def score(self, examples: Sequence[Example], copies: int) -> list[Scores]:
        """Score `copies` copies of the examples, each of them apart."""
        return self.load(examples, copies)()

    def load(self, examples: Sequence[Example], copies: int) -> Callable[[], list[Scores]]:
        """Put examples where a graph reads them. Return what scores them, good until the next batch comes."""
        draft = self._builder.draft(examples)
        shape = bucket_of(draft.shape(copies), self._builder.context)
        if shape not in self._captured:
            self._captured[shape] = self._new(draft, shape)
        captured = self._captured[shape]
        self._captured.move_to_end(shape)
        self._fill(captured.packed, captured.tensors, draft, shape)
        batch = dataclasses.replace(captured.batch, counts=draft.counts)

        def replay() -> list[Scores]:
            self._replays += 1
            # On the host before any other graph runs: they all share the memory beside their inputs.
            return batch.split(captured.replay())

        return replay

    def _new(self, draft: Draft, shape: Shape) -> _Captured:
        self._builder.check_room(shape)
        if len(self._captured) == self._most:
            self._captured.popitem(last=False)
        packed = torch.empty(packed_size(fields(shape)), dtype=torch.uint8, device=self._builder.device)
        tensors = views(packed, fields(shape))
        self._fill(packed, tensors, draft, shape)  # the forwards before the capture need a batch
        segments = shape.copies * shape.segments
        bounds = HostLengths([shape.longest] * segments, [shape.prefixes] + [0] * (segments - 1))
        batch = self._builder.label(tensors, shape, bounds, draft.counts)
        self._captures += 1
        return _Captured(packed, tensors, batch, self._capture(lambda: self._forward(batch)))

    def _fill(
        self, packed: torch.Tensor, tensors: Mapping[str, torch.Tensor], draft: Draft, shape: Shape
    ) -> None:
        packed.copy_(self._builder.pack(draft, shape), non_blocking=True)
        self._builder.map_kv_slots(tensors, shape)


class CudaCapture:
    """Captures CUDA graphs that share one pool of memory, so that they must not run at the same time."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, forward: Forward) -> Forward:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                forward()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                output = forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UserError(
                f"the model's forward cannot be captured ({one_line(error)}): leave out --cuda-graph"
            ) from error

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay


def check_options(
    *, device: str, attention_backend: str | None, lora_backend: str | None, tp_size: int
) -> None:
    """Raise UserError for options with which forwards cannot be captured.

    Triton's attention makes all of its metadata on the device; SGLang's own LoRA backends make index
    tensors for every batch.
    """
    if device != "cuda":
        raise UserError(f"--cuda-graph needs a GPU: leave it out with --device {device}")
    if attention_backend != "triton":
        raise UserError("--cuda-graph needs Triton's attention: pass --attention-backend triton")
    if lora_backend is not None:
        raise UserError(f"--cuda-graph does not go with --lora-backend {lora_backend}: leave out one of them")
    if tp_size > 1:
        raise UserError(f"--cuda-graph does not go with --tp-size {tp_size}: leave out one of them")


def check_model(model_runner: ModelRunner) -> None:
    """Raise UserError for a model whose forward depends on numbers that the host reads from the device."""
    if model_runner.sliding_window_size is not None:
        raise UserError(
            f"--cuda-graph: attention of {type(model_runner.model).__name__} has sliding windows, whose "
            "sizes the host must know: leave it out"
        )
    manager = model_runner.lora_manager
    if manager is not None and manager.lora_backend.is_moe_lora:
        raise UserError(
            f"--cuda-graph: {type(model_runner.model).__name__} is a mixture of experts: leave it out"
        )

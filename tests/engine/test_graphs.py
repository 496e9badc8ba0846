"""Graphs of the mirrored forward: buckets, and batches in them next to batches as they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import torch
from sglang.srt.model_executor.model_runner import ModelRunner

from sglang_mezo_plugin.engine.batch import scoring
from sglang_mezo_plugin.engine.batch.buckets import Shape, bucket_of
from sglang_mezo_plugin.engine.batch.builder import BatchBuilder, LabelledBatch
from sglang_mezo_plugin.engine.graphs import (
    Capture,
    CudaCapture,
    Forward,
    GraphScorer,
    check_model,
    check_options,
)
from sglang_mezo_plugin.engine.lora.carrier import LoraCarrier, adapter_server_args
from sglang_mezo_plugin.engine.runner import open_runner
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.training.objectives import Scores

EPS = 1e-2
SIZES = (1, 4, 9, 4, 2, 9, 1, 20)
OPTIONS = {"device": "cuda", "lora_backend": None, "tp_size": 1}
OPTIONS |= {"attention_backend": "triton"}
# Graphs go with these alone, whatever the options of the tests are. Triton rounds fp32 operands to TF32.
CUDA = torch.cuda.is_available()
ENGINE_ARGS = {"attention_backend": "triton"} if CUDA else {}
ATOL = 1e-2 if CUDA else 1e-5
NEEDS_GPU = pytest.mark.skipif(not CUDA, reason="needs a GPU")


def directly(forward: Forward) -> Forward:
    """Take the place of a capture: run the forward again, on the same tensors, whatever they now hold."""
    return forward


def really() -> Capture:
    """Return a capture whose replays are compared with the same forward, launched by the host."""
    capture = CudaCapture()

    def checked(forward: Forward) -> Forward:
        replay = capture(forward)

        def both() -> torch.Tensor:
            output = replay().clone()
            torch.testing.assert_close(output, forward(), rtol=0, atol=1e-4)
            return output

        return both

    return checked


CAPTURES = [lambda: directly, pytest.param(really, marks=NEEDS_GPU)]


@contextmanager
def opened(name: str, folder: Path) -> Iterator[tuple[ModelRunner, Adapter]]:
    path = tiny_models.saved(name, folder)
    adapter = Adapter.fresh(Path(path), seed=3, target_modules="all-linear")
    for key, tensor in adapter.tensors.items():
        if ".lora_B." in key:  # zero, so that A would have no effect
            tensor.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
    with open_runner(
        path,
        dtype="float32",
        skip_tokenizer_init=True,
        mem_fraction_static=0.3,
        max_total_tokens=8192,
        max_running_requests=1024,
        **adapter_server_args(adapter, pairs=2),
        **ENGINE_ARGS,
    ) as runner:
        yield runner, adapter


def all_scores(carrier: LoraCarrier) -> list[Scores]:
    """Score one batch after another: of several sizes, by one pair, two, a point, and at theta in between."""
    scores = []
    for number, size in enumerate(SIZES):
        batch = tiny_models.make_batch(size, seed=number)
        seeds = range(number, number + 1 + number % 2)
        pairs = carrier.score_pairs(batch, seeds, EPS)
        scores += [side for pair in pairs for side in pair]
        scores += [carrier.score(batch), carrier.score_at(batch, seeds[0], -EPS)]
    return scores


def buckets(builder: BatchBuilder) -> list[Shape]:
    """Return the bucket of each forward by a graph in `all_scores`."""
    drafts = [builder.draft(tiny_models.make_batch(size, seed=i).examples) for i, size in enumerate(SIZES)]
    shapes = [draft.shape(copies) for i, draft in enumerate(drafts) for copies in (2 + 2 * (i % 2), 1)]
    return [bucket_of(shape, builder.context) for shape in shapes]


@pytest.mark.parametrize("name", ["opt", "llama", "gpt2"])
@pytest.mark.parametrize("make_capture", CAPTURES, ids=["directly", "really"])
def test_a_graph_scores_like_ordinary_forwards(
    name: str, make_capture: Callable[[], Capture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "CHUNK", 50 * 256)  # several chunks of rows
    with opened(name, tmp_path) as (runner, adapter):
        carrier = LoraCarrier(runner, adapter, make_capture())
        by_graphs, graphs = all_scores(carrier), carrier.graphs
        carrier.graphs = None
        for ours, theirs in zip(by_graphs, all_scores(carrier), strict=True):
            assert tiny_models.largest_difference(ours, theirs) < 2 * ATOL
        wanted = buckets(BatchBuilder(runner))
        assert (graphs.captures, graphs.replays) == (len(set(wanted)), len(wanted))
        assert graphs.captures < graphs.replays


@pytest.mark.parametrize("make_capture", CAPTURES, ids=["directly", "really"])
def test_the_graphs_last_used_are_kept(make_capture: Callable[[], Capture], tmp_path: Path) -> None:
    batch = tiny_models.make_batch(3).examples
    path = tiny_models.saved("opt", tmp_path)
    with tiny_models.opened(path, "float32", ENGINE_ARGS) as runner:
        graphs = GraphScorer(BatchBuilder(runner), scoring.Scorer(runner).score, make_capture(), most=2)
        (alone,) = graphs.score(batch, 1)
        captures = []
        for copies in (1, 2, 1, 3, 1, 2, 1, 3):
            scores = graphs.score(batch, copies)
            assert len(scores) == copies
            assert max(tiny_models.largest_difference(one, alone) for one in scores) < ATOL
            captures.append(graphs.captures)
        assert captures == [1, 2, 2, 3, 3, 4, 4, 5]
        with pytest.raises(
            UserError, match=r"^a forward of 4160 tokens does not fit into the pool of 4096: "
        ):
            graphs.score(batch, 65)


def test_a_graph_launches_enough_for_every_batch_of_its_bucket(tmp_path: Path) -> None:
    """What the host knows of lengths when it captures is an upper bound for all batches to come."""

    def check(labelled: LabelledBatch) -> torch.Tensor:
        batch = labelled.forward_batch
        assert len(batch.extend_seq_lens_cpu) == len(batch.extend_seq_lens) == batch.batch_size
        assert max(batch.extend_seq_lens_cpu) >= int(batch.extend_seq_lens.max())
        assert sum(batch.extend_prefix_lens_cpu) >= int(batch.extend_prefix_lens.sum())
        assert int(batch.seq_lens_cpu.max()) >= int(batch.seq_lens.max())
        return torch.zeros(labelled.copies, len(labelled.targets))

    with tiny_models.opened(tiny_models.saved("opt", tmp_path), "float32", ENGINE_ARGS) as runner:
        graphs = GraphScorer(BatchBuilder(runner), check, directly)
        for seed in range(100):
            graphs.score(tiny_models.make_batch(6, seed).examples, copies=2)
        assert graphs.captures <= 12


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"device": "cpu"}, "--cuda-graph needs a GPU: leave it out with --device cpu"),
        (
            {"attention_backend": None},
            "--cuda-graph needs Triton's attention: pass --attention-backend triton",
        ),
        (
            {"lora_backend": "csgmv"},
            "--cuda-graph does not go with --lora-backend csgmv: leave out one of them",
        ),
        ({"tp_size": 2}, "--cuda-graph does not go with --tp-size 2: leave out one of them"),
    ],
)
def test_options_that_are_refused(option: dict[str, Any], message: str) -> None:
    check_options(**OPTIONS)
    with pytest.raises(UserError) as refused:
        check_options(**OPTIONS | option)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("window", "experts", "why"),
    [(512, False, "sliding wind"), (512, None, "sliding wind"), (None, True, "a mixture")],
)
def test_models_that_are_refused(window: int | None, experts: bool, why: str) -> None:
    def model(window: int | None, experts: bool | None) -> Any:
        """experts: None without an adapter."""
        backend = SimpleNamespace(lora_backend=SimpleNamespace(is_moe_lora=experts))
        manager = None if experts is None else backend
        return SimpleNamespace(model=torch.nn.Linear(1, 1), sliding_window_size=window, lora_manager=manager)

    check_model(model(None, False))
    check_model(model(None, None))
    with pytest.raises(UserError, match=f"^--cuda-graph: .*Linear .*{why}.*: leave it out$"):
        check_model(model(window, experts))

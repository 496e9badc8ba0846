"""Full training by graphs, next to the same steps launched by the host: the weights have the same bits."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import tiny_models
import torch
from frozen_capture import FrozenCapture

from sglang_mezo_plugin.checkpoint_files import read_tensors
from sglang_mezo_plugin.engine import dense_graphs, halves
from sglang_mezo_plugin.engine.dense import DenseCarrier
from sglang_mezo_plugin.engine.graphs import Capture, CudaCapture
from sglang_mezo_plugin.losses import Scores
from sglang_mezo_plugin.noise import Direction, StepTable

CUDA = torch.cuda.is_available()
ENGINE_ARGS = {"attention_backend": "triton"} if CUDA else {}
EPS, MOVE, DECAY, STEPS = 1e-2, 3e-3, 0.99, 8
SIZES = (2, 9, 2, 4)  # in four buckets, and one for a single copy
# Triton rounds fp32 operands to TF32; the other dtypes are themselves that coarse.
ATOL = {"float32": 2e-2 if CUDA else 2e-5, "float16": 0.05, "bfloat16": 0.3}

Steps = Callable[[DenseCarrier, Path], list[Scores]]


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Capture:
    return CudaCapture() if CUDA else FrozenCapture(monkeypatch)


def directions(step: int, pairs: int, distribution: str) -> list[Direction]:
    return [Direction(2**63 + 10 * step + pair, distribution) for pair in range(pairs)]


def moves(step: int, pairs: int, distribution: str) -> list[tuple[Direction, float]]:
    return [(z, MOVE * (1 + i)) for i, z in enumerate(directions(step, pairs, distribution))]


def train(pairs: int, distribution: str, carrier: DenseCarrier, folder: Path) -> list[Scores]:
    """Probe and step; in between save, evaluate, and make two steps without a probe."""
    scores = []
    for step in range(STEPS):
        batch = tiny_models.make_batch(SIZES[step % len(SIZES)], seed=step)
        probed = carrier.score_pairs(batch, directions(step, pairs, distribution), EPS)
        scores += [side for pair in probed for side in pair]
        carrier.step(moves(step, pairs, distribution), DECAY if step % 3 else 1.0, step)
        if step == 2:
            carrier.save(folder / "middle")
        if step == 4:
            scores.append(carrier.score(batch))
        if step == 5:
            carrier.step(moves(step + 100, pairs, distribution), DECAY, 2**64 - 1)
            scores.append(carrier.score_at(batch, Direction(5, distribution), -EPS))
    return scores


def run(
    path: str, folder: Path, dtype: str, capture: Capture | None, steps: Steps
) -> tuple[DenseCarrier, list[Scores], list[dict[str, torch.Tensor]]]:
    folder.mkdir()
    with tiny_models.opened(path, dtype, ENGINE_ARGS) as runner:
        carrier = DenseCarrier(runner, Path(path), capture)
        scores = steps(carrier, folder)
        carrier.save(folder / "end")
    return carrier, scores, [dict(read_tensors(saved)) for saved in sorted(folder.iterdir())]


def compare(
    name: str, folder: Path, dtype: str, capture: Capture, steps: Steps
) -> tuple[DenseCarrier, DenseCarrier]:
    """Make the same steps by graphs and without. Return both carriers, those with graphs first."""
    path = tiny_models.saved(name, folder)
    by_graphs, ours, found = run(path, folder / "graphs", dtype, capture, steps)
    launched, theirs, wanted = run(path, folder / "launched", dtype, None, steps)
    for one, other in zip(ours, theirs, strict=True):
        assert tiny_models.largest_difference(one, other) < ATOL[dtype]
    base = {name: tensor.to(getattr(torch, dtype)) for name, tensor in read_tensors(Path(path))}
    for saved, expected in zip(found, wanted, strict=True):
        assert saved.keys() == expected.keys() == base.keys()
        for key, tensor in expected.items():
            assert torch.equal(saved[key], tensor), key
            assert not torch.equal(tensor, base[key]), key
    return by_graphs, launched


@pytest.mark.parametrize(
    ("name", "dtype", "distribution", "pairs"),
    [
        ("opt", "float32", "gaussian", 3),
        ("opt", "float16", "rademacher", 1),
        ("llama", "float32", "rademacher", 1),
        ("llama", "bfloat16", "gaussian", 3),
        ("qwen2", "float16", "gaussian", 1),
        ("gpt2", "float32", "gaussian", 3),
    ],
)
def test_a_run_by_graphs(
    name: str, dtype: str, distribution: str, pairs: int, capture: Capture, tmp_path: Path
) -> None:
    carrier, _ = compare(name, tmp_path, dtype, capture, partial(train, pairs, distribution))
    graphs = carrier.graphs
    assert (graphs.captures, graphs.replays) == (5, STEPS * pairs + 1)


def test_a_graph_takes_the_step_itself(capture: Capture, tmp_path: Path) -> None:
    """Not a launch before it, which would read and write all weights once more."""

    def steps(carrier: DenseCarrier, folder: Path) -> list[Scores]:
        scores = []
        for step in range(4):
            (pair,) = carrier.score_pairs(tiny_models.make_batch(3), directions(step, 1, "gaussian"), EPS)
            scores += pair
            assert all(w.waiting is None for w in (carrier._halves._norms, *carrier._halves._groups))
            carrier.step(moves(step, 1, "gaussian"), DECAY, step)
        if carrier.graphs and not CUDA:
            assert capture.settled == 0
        return scores

    compare("opt", tmp_path, "float16", capture, steps)


def test_steps_that_a_table_has_no_place_for(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More moves than it takes; another distribution than the probe's; decay without a move."""
    monkeypatch.setattr(dense_graphs, "StepTable", partial(StepTable, room=2))

    def steps(carrier: DenseCarrier, folder: Path) -> list[Scores]:
        scores = []
        for step, (count, distribution) in enumerate(
            [(3, "gaussian"), (2, "gaussian"), (1, "rademacher"), (0, "gaussian"), (2, "gaussian")]
        ):
            carrier.step(moves(step, count, distribution), DECAY, step)
            for z in (Direction(step), Direction(step, "rademacher"), Direction(step + 50)):
                (pair,) = carrier.score_pairs(tiny_models.make_batch(3), [z], EPS)
                scores += pair
        mixed = [Direction(1), Direction(2, "rademacher"), Direction(3)]
        pairs = carrier.score_pairs(tiny_models.make_batch(3), mixed, EPS)
        return scores + [side for pair in pairs for side in pair]

    carrier, _ = compare("opt", tmp_path, "float16", capture, steps)
    assert carrier.graphs.captures == 2


def mlp_of(carrier: DenseCarrier, layer: int) -> torch.nn.Module:
    return carrier._scorer._runner.model.model.layers[layer].mlp


@pytest.mark.parametrize("case", ["took it before", "out of reach", "written twice"])
def test_a_step_is_taken_once(
    case: str, capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where some weights have taken it before; where a forward reads others; where it reads some twice."""
    monkeypatch.setattr(halves, "SCRATCH", 1)  # each layer by itself

    def steps(carrier: DenseCarrier, folder: Path) -> list[Scores]:
        scores, batch, mlp = [], tiny_models.make_batch(3), mlp_of(carrier, 1)
        graphs, carrier.graphs = carrier.graphs, None
        carrier.score_pairs(batch, [Direction(0)], EPS)  # reads all
        carrier.graphs, forward = graphs, mlp.forward
        if case == "out of reach":
            monkeypatch.setattr(mlp, "forward", lambda x, **_: x)
        if case == "written twice":
            monkeypatch.setattr(mlp, "forward", lambda x, **_: forward(forward(x)))
        for step in range(4):
            carrier.step(moves(step, 1, "gaussian"), DECAY, step)
            if case == "took it before":
                carrier._halves._groups[step].settle()
            for pair in carrier.score_pairs(batch, directions(step, 2, "gaussian"), EPS):
                scores += pair
            left = [w for w in carrier._halves._groups if w.waiting is not None]
            assert len(left) == (2 if case == "out of reach" else 0)
        return scores

    compare("llama", tmp_path, "float16", capture, steps)


def test_probing_does_not_move_weights(capture: Capture, tmp_path: Path) -> None:
    """Nor do the forwards before a capture, or the capture itself."""
    path = tiny_models.saved("opt", tmp_path)
    with tiny_models.opened(path, "float16", ENGINE_ARGS) as runner:
        carrier = DenseCarrier(runner, Path(path), capture)
        before = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
        for size in SIZES:
            carrier.score_pairs(tiny_models.make_batch(size), [Direction(1), Direction(2)], EPS)
        for name, tensor in runner.model.state_dict().items():
            assert torch.equal(tensor, before[name]), name

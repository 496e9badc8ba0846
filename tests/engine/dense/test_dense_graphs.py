"""Full training by graphs, next to the same steps launched by the host: the weights have the same bits."""

from functools import partial
from pathlib import Path

import pytest
import tiny_models
import torch
from dense_runs import DECAY, ENGINE_ARGS, EPS, compare, moves, seeds_of
from frozen_capture import FrozenCapture

from sglang_mezo_plugin.engine import opening
from sglang_mezo_plugin.engine.dense import carrier as dense_carrier
from sglang_mezo_plugin.engine.dense import halves
from sglang_mezo_plugin.engine.dense.carrier import DenseCarrier
from sglang_mezo_plugin.engine.graphs import Capture, CudaCapture
from sglang_mezo_plugin.engine.ranks.layout import Layout
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Distribution, StepNumbers
from sglang_mezo_plugin.training.objectives import Scores

CUDA = torch.cuda.is_available()
STEPS, SIZES = 8, (2, 9, 2, 4)  # in four buckets, and one for a single copy


@pytest.fixture
def capture(monkeypatch: pytest.MonkeyPatch) -> Capture:
    return CudaCapture() if CUDA else FrozenCapture(monkeypatch)


def train(pairs: int, carrier: DenseCarrier, folder: Path) -> list[Scores]:
    """Probe and step; in between save, evaluate, and make two steps without a probe."""
    scores = []
    for step in range(STEPS):
        batch = tiny_models.make_batch(SIZES[step % len(SIZES)], seed=step)
        probed = carrier.score_pairs(batch, seeds_of(step, pairs), EPS)
        scores += [side for pair in probed for side in pair]
        carrier.step(moves(step, pairs), DECAY if step % 3 else 1.0, step)
        if step == 2:
            carrier.save(folder / "middle")
        if step == 4:
            scores.append(carrier.score(batch))
        if step == 5:
            carrier.step(moves(step + 100, pairs), DECAY, 2**64 - 1)
            scores.append(carrier.score_at(batch, 5, -EPS))
    return scores


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
    name: str, dtype: str, distribution: Distribution, pairs: int, capture: Capture, tmp_path: Path
) -> None:
    carrier, _ = compare(name, tmp_path, dtype, capture, partial(train, pairs), distribution)
    graphs = carrier.graphs
    assert (graphs.captures, graphs.replays) == (5, STEPS * pairs + 1)


def test_a_graph_takes_the_step_itself(capture: Capture, tmp_path: Path) -> None:
    """Not a launch before it, which would read and write all weights once more."""

    def steps(carrier: DenseCarrier, folder: Path) -> list[Scores]:
        scores = []
        for step in range(4):
            (pair,) = carrier.score_pairs(tiny_models.make_batch(3), seeds_of(step, 1), EPS)
            scores += pair
            assert all(w.waiting is None for w in (carrier._halves._norms, *carrier._halves._groups))
            carrier.step(moves(step, 1), DECAY, step)
        if carrier.graphs and not CUDA:
            assert capture.settled == 0
        return scores

    compare("opt", tmp_path, "float16", capture, steps)


def test_steps_that_there_is_no_room_for(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More moves than that; and decay without a move."""

    class RoomForTwo(StepNumbers):
        def __init__(self, device: torch.device | str, room: int = 2) -> None:
            super().__init__(device, room)

    monkeypatch.setattr(dense_carrier, "StepNumbers", RoomForTwo)

    def steps(carrier: DenseCarrier, folder: Path) -> list[Scores]:
        scores = []
        for step, count in enumerate((3, 2, 1, 0, 2)):
            carrier.step(moves(step, count), DECAY, step)
            for seed in (step, step + 50):
                (pair,) = carrier.score_pairs(tiny_models.make_batch(3), [seed], EPS)
                scores += pair
        return scores

    carrier, _ = compare("opt", tmp_path, "float16", capture, steps)
    assert carrier.graphs.captures == 1


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
        carrier.score_pairs(batch, [0], EPS)  # reads all
        carrier.graphs, forward = graphs, mlp.forward
        if case == "out of reach":
            monkeypatch.setattr(mlp, "forward", lambda x, **_: x)
        if case == "written twice":
            monkeypatch.setattr(mlp, "forward", lambda x, **_: forward(forward(x)))
        for step in range(4):
            carrier.step(moves(step, 1), DECAY, step)
            if case == "took it before":
                carrier._halves._groups[step].settle()
            for pair in carrier.score_pairs(batch, seeds_of(step, 2), EPS):
                scores += pair
            left = [w for w in carrier._halves._groups if w.waiting is not None]
            assert len(left) == (2 if case == "out of reach" else 0)
        return scores

    compare("llama", tmp_path, "float16", capture, steps)


def test_ranks_open_with_graphs_and_the_runs_noise(
    capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "CudaCapture", lambda: capture)
    path = Path(tiny_models.saved("opt", tmp_path))
    options = {"dtype": "float32", "skip_tokenizer_init": True, "max_total_tokens": 4096, **ENGINE_ARGS}
    made = opening.make_opening(path, None, True, Layout(), options, True, "rademacher", longest=96)
    with opening.open_share(made, rank=0) as share:
        share.carrier.score_pairs(tiny_models.make_batch(2), [1], EPS)
        assert (share.carrier.graphs.replays, share.carrier.distribution) == (1, "rademacher")


def test_sliding_windows_are_refused(capture: Capture, tmp_path: Path) -> None:
    path = Path(tiny_models.saved("opt", tmp_path))
    with tiny_models.opened(str(path), "float32", ENGINE_ARGS) as runner:
        runner.sliding_window_size = 512
        with pytest.raises(UserError, match=r"^--cuda-graph: .* has sliding windows"):
            DenseCarrier(runner, path, capture=capture)
        DenseCarrier(runner, path)


def test_probing_does_not_move_weights(capture: Capture, tmp_path: Path) -> None:
    """Nor do the forwards before a capture, or the capture itself."""
    path = tiny_models.saved("opt", tmp_path)
    with tiny_models.opened(path, "float16", ENGINE_ARGS) as runner:
        carrier = DenseCarrier(runner, Path(path), capture=capture)
        before = {name: tensor.clone() for name, tensor in runner.model.state_dict().items()}
        for size in SIZES:
            carrier.score_pairs(tiny_models.make_batch(size), [1, 2], EPS)
        for name, tensor in runner.model.state_dict().items():
            assert torch.equal(tensor, before[name]), name

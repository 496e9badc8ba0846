"""Two ranks score and move as one does: over gloo without a GPU, over NCCL on two of them."""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_models
import torch

from sglang_mezo_plugin.engine.ranks.carrier import RankedCarrier
from sglang_mezo_plugin.engine.ranks.layout import Layout
from sglang_mezo_plugin.engine.ranks.leader import Ranks
from sglang_mezo_plugin.engine.ranks.worker import follow
from sglang_mezo_plugin.engine.session import open_session
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import read_tensors
from sglang_mezo_plugin.training.objectives import Scores
from sglang_mezo_plugin.training.optimizers import make_optimizer

GPUS = torch.cuda.device_count()
TP, DP = Layout(tp_size=2), Layout(dp_size=2)
TP_DP = Layout(2, 2)
CASES = [
    ("full", torch.float32, TP),
    ("full", torch.float16, TP),
    ("lora", torch.float32, TP),
    ("full", torch.float32, DP),
    ("lora", torch.float32, DP),
]
EPS = 1e-2


class Walk(NamedTuple):
    """What a carrier has scored before and after some steps, and its weights after them."""

    scores: list[Scores]
    weights: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def walk(
    tmp_path_factory: pytest.TempPathFactory, engine_args: dict[str, Any], forked_ranks: None
) -> Callable[[str, torch.dtype, Layout], Walk]:
    folder = tmp_path_factory.mktemp("ranks")
    checkpoint = Path(tiny_models.saved("llama", folder))
    words = [word for name, value in engine_args.items() for word in (f"--{name.replace('_', '-')}", value)]

    @cache
    def made(mode: str, dtype: torch.dtype, layout: Layout) -> Walk:
        adapter = Adapter.fresh(checkpoint, seed=3, target_modules="all-linear") if mode == "lora" else None
        batch, other = tiny_models.make_batch(5, seed=1), tiny_models.make_batch(9, seed=2)
        saved = folder / f"{mode}-{dtype}-{layout.tp_size}-{layout.dp_size}"
        with open_session(
            checkpoint,
            adapter,
            trains=True,
            examples=other.examples,
            batch_size=9,
            num_pairs=2,
            eval_examples=other.examples,
            dtype=dtype,
            server_args=words,
            ranks=Ranks(layout, follow),
        ) as session:
            carrier = session.carrier
            optimizer = session.spread(make_optimizer("adam" if adapter else "sgd", learning_rate=1e-2))
            optimizer.attach(carrier)
            scores = []
            for step in (1, 2, 3):
                seeds = [10 * step + pair for pair in range(3)]
                for few in (seeds, seeds[:1]):
                    scores.extend(side for pair in carrier.score_pairs(batch, few, EPS) for side in pair)
                grads = [(seed, 0.3 * step) for seed in seeds]
                optimizer.update(grads, learning_rate=1e-2, step=step)
            scores.extend(scored for _, scored in session.score(other.examples))
            carrier.save(saved)
        weights = read_tensors(saved) if mode == "full" else Adapter.load(saved, checkpoint).tensors
        return Walk(scores, dict(weights))

    return made


@pytest.mark.skipif(GPUS == 1, reason="two GPUs, or none")
@pytest.mark.parametrize(("mode", "dtype", "layout"), CASES, ids=str)
def test_two_ranks_score_and_move_as_one(
    mode: str,
    dtype: torch.dtype,
    layout: Layout,
    walk: Callable[[str, torch.dtype, Layout], Walk],
    atol: float,
) -> None:
    one, two = walk(mode, dtype, Layout()), walk(mode, dtype, layout)
    assert len(one.scores) == len(two.scores) > 3 * 8
    bound = 2 * atol if dtype == torch.float32 else 5e-2
    for ours, theirs in zip(two.scores, one.scores, strict=True):
        assert tiny_models.largest_difference(ours, theirs) < bound
    assert one.weights.keys() == two.weights.keys()
    for name, tensor in one.weights.items():
        assert torch.equal(two.weights[name], tensor), name


class Traced:
    """A share whose scores say at which point, and of which batch, they were taken."""

    adapted = False

    def __init__(self, rank: int, checksum: int = 0) -> None:
        self.rank = rank
        self.checksum = lambda: checksum

    def score(self, batch: Any) -> Any:
        return batch

    def score_pairs(self, batch: Any, directions: Sequence[int], eps: float) -> list[Any]:
        return [tuple(self.score_points(batch, [(z, eps), (z, -eps)])) for z in directions]

    def score_points(self, batch: Any, points: Sequence[tuple[int, float]]) -> list[Any]:
        return [(batch, z, coefficient) for z, coefficient in points]


class Mailbox:
    """Ranks that do what they are told when they are heard."""

    def __init__(self, layout: Layout, shares: Sequence[Traced]) -> None:
        self.layout = layout
        self._shares = shares
        self._told: dict[int, list[Any]] = {rank: [] for rank in range(layout.size)}

    def tell(self, ranks: Iterable[int], message: Any) -> None:
        for rank in ranks:
            self._told[rank].append(message)

    def hear(self, rank: int) -> Any:
        answers = False
        while not answers:
            action, args, answers = self._told[rank].pop(0)
            answer = getattr(self._shares[rank], action)(*args)
        return answer

    def check_nothing_is_left(self) -> None:
        """Check that all that was told was heard, or wanted no answer: work of a replica's other shards."""
        assert not any(answers for messages in self._told.values() for *_, answers in messages)


@pytest.mark.parametrize("tp_size", [1, 2])
@pytest.mark.parametrize("dp_size", range(1, 6))
def test_work_comes_back_in_order_however_it_is_dealt(dp_size: int, tp_size: int) -> None:
    ranks = Mailbox(Layout(tp_size, dp_size), [Traced(rank) for rank in range(dp_size * tp_size)])
    carrier = RankedCarrier(Traced(0), ranks)
    for count in range(1, 6):
        pairs = carrier.score_pairs("batch", range(count), 0.5)
        assert pairs == [(("batch", z, 0.5), ("batch", z, -0.5)) for z in range(count)]
        assert list(carrier.score_all(range(count))) == list(range(count))
    ranks.check_nothing_is_left()


@pytest.mark.parametrize(("broken", "like"), [(1, 1), (2, 0), (3, 1)])
def test_replicas_that_disagree_are_found(broken: int, like: int, tmp_path: Path) -> None:
    """Shards of one replica differ; those of two replicas do not."""
    shares = [Traced(rank, checksum=rank % 2) for rank in range(4)]
    carrier = RankedCarrier(shares[0], Mailbox(TP_DP, shares))
    carrier.check_replicas()
    shares[broken].checksum = lambda: 7
    with pytest.raises(UserError, match=f"the weights of rank .* are not those of rank {like}: look for"):
        carrier.save(tmp_path)

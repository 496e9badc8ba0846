"""The loop, on a quadratic: its numbers, its evaluations, its replay."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from quadratic import EXAMPLES, Quadratic
from quadratic_runs import THREE, Run

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.noise import Distribution
from sglang_mezo_plugin.runs.journal import read_journal
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.optimizers import SGD, Grads
from sglang_mezo_plugin.training.trainer import replay


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher"])
def test_algorithm_1_by_hand(tmp_path: Path, distribution: Distribution) -> None:
    """theta -= lr g z, with g of the batch's mean loss; clipped, decayed, scheduled. In fp32 to the bit."""
    config = TrainerConfig(
        steps=4,
        learning_rate=2.0**-7,
        seed=9,
        eps=2.0**-6,
        schedule="linear",
        projected_grad_clip=20.0,
        distribution=distribution,
    )
    run = Run(tmp_path, config)
    run.go()
    model, clipped = Quadratic(distribution), 0
    for entry in read_journal(run.folder.journal)[1]:
        seed = 9 << 32 | entry.step - 1
        batch = run.sampler.batch(entry.step)
        z = model.z(seed)
        losses = [
            sum(model.loss(theta, example) for example in batch.examples) / 2
            for theta in (model.flat() + 2.0**-6 * z, model.flat() - 2.0**-6 * z)
        ]
        grad = (losses[0] - losses[1]) * 32
        rate = 2.0**-7 * (5 - entry.step) / 4
        assert (entry.seeds, entry.learning_rate, entry.batch) == ((seed,), rate, batch.identity)
        assert [*entry.loss_plus, *entry.loss_minus] == losses
        assert entry.projected_grads == (max(-20.0, min(grad, 20.0)),)
        clipped += abs(grad) > 20
        model.step([(seed, -rate * entry.projected_grads[0])], 1 - rate * 0.1, 0)
    assert 0 < clipped < 4
    assert model.bits() == run.carrier.bits()


def test_the_journal_knows_of_a_step_before_the_weights_move(tmp_path: Path) -> None:
    run = Run(tmp_path, THREE)
    update, known = run.optimizer.update, []

    def watched(grads: Grads, learning_rate: float, step: int) -> None:
        known.append((step, read_journal(run.folder.journal)[1][-1].step, run.carrier.bits()))
        update(grads, learning_rate, step)

    run.optimizer.update = watched
    run.go()
    assert [entry[:2] for entry in known] == [(1, 1), (2, 2), (3, 3)]
    assert known[0][2] == Quadratic().bits()


def test_evaluating_and_observing_change_no_number(tmp_path: Path) -> None:
    plain = Run(tmp_path / "plain", THREE, evaluate=False)
    result = plain.go(lambda trainer: setattr(trainer, "observers", ()))
    assert (result.status, result.last_step, result.best) == ("finished", 3, None)
    assert not plain.folder.evals.exists() and not (tmp_path / "plain" / "best").exists()

    watched = Run(tmp_path / "watched", TrainerConfig(steps=3, learning_rate=2.0**-7, seed=9, eval_steps=1))
    evaluate = watched.evaluate

    def noisy() -> dict[str, float]:
        torch.manual_seed(0)
        np.random.seed(0)
        return evaluate()

    watched.evaluate = noisy
    watched.go()
    assert watched.folder.journal.read_bytes() == plain.folder.journal.read_bytes()
    assert watched.carrier.bits() == plain.carrier.bits()
    metrics = [json.loads(line) for line in watched.folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in metrics] == [1, 2, 3]
    assert all(line["seconds"] > 0 for line in metrics)
    steps = [("step", line["step"], line["projected_grad"]) for line in metrics]
    evals = [("eval", line["step"], line["loss"]) for line in watched.folder.evaluations]
    order = [evals[0], steps[0], evals[1], steps[1], evals[2], steps[2], evals[3]]
    assert watched.log.events == [("start", 1, 3), *order, ("end", "finished")]


@pytest.mark.parametrize(
    ("eval_steps", "losses", "best", "saved"),
    [
        (1, [3.0, 1.0, 1.0, 2.0, 4.0], {"step": 1, "loss": 1.0}, [0, 1]),
        (2, [3.0, 5.0, 2.0], {"step": 4, "loss": 2.0}, [0, 4]),
        (3, [1.0, 2.0, 2.0], {"step": 0, "loss": 1.0}, [0]),
        (0, [3.0, 2.0], {"step": 4, "loss": 2.0}, [0, 4]),
    ],
)
def test_the_best_is_the_lowest_loss_the_earliest_of_equals(
    tmp_path: Path, eval_steps: int, losses: list[float], best: dict[str, float], saved: list[int]
) -> None:
    run = Run(tmp_path, TrainerConfig(4, 2.0**-7, eval_steps=eval_steps), losses=losses)
    saves: list[tuple[str, int]] = []
    run.carrier.save = lambda folder: saves.append((folder.name, len(read_journal(run.folder.journal)[1])))
    result = run.go()
    assert result.best == best
    assert saves == [*(("best", step) for step in saved), ("last", 4)]
    assert (result.first_evaluation["loss"], result.last_evaluation["loss"]) == (losses[0], losses[-1])
    assert result.last_evaluation["step"] == 4
    summary = json.loads(run.folder.summary.read_text())
    assert (summary["status"], summary["last_step"], summary["best"]) == ("finished", 4, best)
    assert summary["output"] == "last"
    again = Run(tmp_path, run.config, losses=[], resume=True)
    assert again.go().best == best
    assert again.log.events == [("start", 5, 4), ("end", "finished")]


def test_replay_of_a_journals_beginning_is_the_run_up_to_there(tmp_path: Path) -> None:
    run = Run(tmp_path, THREE)
    states = [run.carrier.bits()]
    update = run.optimizer.update

    def watched(grads: Grads, learning_rate: float, step: int) -> None:
        update(grads, learning_rate, step)
        states.append(run.carrier.bits())

    run.optimizer.update = watched
    run.go()
    records = read_journal(run.folder.journal)[1]
    assert len(set(states)) == 4
    for step, state in enumerate(states):
        carrier = Quadratic()
        replay(carrier, SGD(0.1), records[:step])
        assert carrier.bits() == state


def test_a_resumed_run_is_checked(tmp_path: Path) -> None:
    Run(tmp_path, THREE).go()
    before = (tmp_path / "journal.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"journal.jsonl holds 3 steps: pass --steps 3 or more"):
        Run(tmp_path, TrainerConfig(2, 2.0**-7, seed=9), resume=True).go()
    with pytest.raises(
        UserError, match=r"journal.jsonl: the batch of step 3 is now another one: restore the"
    ):
        Run(tmp_path, THREE, resume=True, examples=EXAMPLES[::-1]).go()
    assert (tmp_path / "journal.jsonl").read_bytes() == before


def test_an_optimizer_without_room_is_refused_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, THREE, "adam")
    monkeypatch.setattr(
        run.carrier, "parameters", lambda: (_ for _ in ()).throw(UserError("--optimizer sgd"))
    )
    with pytest.raises(UserError, match="--optimizer sgd"):
        run.go(lambda trainer: pytest.fail("made a trainer"))

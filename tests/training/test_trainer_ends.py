"""How a run ends before its last step: signals, and losses that are not finite."""

import json
import math
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from quadratic_runs import THREE, Run, at_step

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.journal import read_journal
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.estimators import NonFiniteLoss
from sglang_mezo_plugin.training.trainer import Trainer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_signal_ends_the_run_after_the_step(tmp_path: Path, number: signal.Signals, step: int) -> None:
    config = TrainerConfig(steps=3, learning_rate=2.0**-7, seed=9, eval_steps=1)
    before = signal.getsignal(number)
    run = Run(tmp_path / "stopped", config)
    result = run.go(at_step(step, lambda: signal.raise_signal(number)))
    assert signal.getsignal(number) is before
    assert (result.status, result.last_step) == ("stopped", step)
    assert result.last_evaluation["step"] == step - 1
    assert json.loads(run.folder.summary.read_text())["status"] == "stopped"
    assert run.log.events[-1] == ("end", "stopped")
    assert (run.folder.path / "last" / "theta").read_bytes() == run.carrier.bits()
    resumed, whole = Run(tmp_path / "stopped", config, resume=True), Run(tmp_path / "whole", config)
    assert resumed.go().status == whole.go().status == "finished"
    assert resumed.folder.journal.read_bytes() == whole.folder.journal.read_bytes()
    assert resumed.folder.evals.read_bytes() == whole.folder.evals.read_bytes()


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    heard = []

    def twice() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            heard.append(number)
            signal.raise_signal(number)

    run = Run(tmp_path, THREE)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.go(at_step(2, twice))
    assert heard == [signal.SIGINT, signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is before
    assert len(read_journal(run.folder.journal)[1]) == 1
    assert run.log.events[-1] == ("end", "failed")
    assert Run(tmp_path, THREE, resume=True).go().status == "finished"


def test_a_signal_during_an_evaluation_starts_no_step(tmp_path: Path) -> None:
    run = Run(tmp_path, THREE)
    evaluate = run.evaluate
    run.evaluate = lambda: signal.raise_signal(signal.SIGTERM) or evaluate()
    result = run.go()
    assert (result.status, result.last_step, result.seconds_per_step) == ("stopped", 0, None)
    assert result.last_evaluation["step"] == 0


def test_in_another_thread(tmp_path: Path) -> None:
    run = Run(tmp_path, THREE)
    thread = threading.Thread(target=run.go)
    thread.start()
    thread.join()
    assert run.log.events[-1] == ("end", "finished")


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e39])
@pytest.mark.parametrize("sign", [0, 1])
def test_a_loss_that_is_not_finite(tmp_path: Path, value: float, sign: int) -> None:
    """Clipping would hide it. 1e39 makes a projected gradient beyond fp32, in which moves are made."""
    config = TrainerConfig(steps=3, learning_rate=2.0**-7, num_pairs=2, projected_grad_clip=1.0)
    run = Run(tmp_path / "run", config)

    def prepare(trainer: Trainer) -> None:
        score_pairs = trainer.carrier.score_pairs

        def scores(*args: Any) -> Any:
            pairs = score_pairs(*args)
            if len(trainer.journal.records) == 1:
                pairs[1][sign][0][0][:] = -value
            return pairs

        trainer.carrier.score_pairs = scores

    identity = run.sampler.batch(2).identity
    with pytest.raises(
        NonFiniteLoss, match=rf"^step 2: .*batch {identity}, direction seed 3\): .*--eps"
    ) as raised:
        run.go(prepare)
    assert "\n" not in str(raised.value) and isinstance(raised.value, UserError)
    assert len(read_journal(run.folder.journal)[1]) == 1
    assert run.log.events[-1] == ("end", "failed")
    resumed, whole = Run(tmp_path / "run", config, resume=True), Run(tmp_path / "whole", config)
    resumed.go()
    whole.go()
    assert resumed.folder.journal.read_bytes() == whole.folder.journal.read_bytes()


def test_an_evaluation_that_is_not_finite(tmp_path: Path) -> None:
    run = Run(tmp_path, THREE, losses=[1.0, math.nan])
    with pytest.raises(NonFiniteLoss, match="step 3: the evaluation's loss is nan: pass a smaller"):
        run.go()
    assert run.folder.evaluations == [{"step": 0, "loss": 1.0}]

"""A run that dies anywhere, and is resumed, is the run that did not die: the same bytes and bits."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from quadratic_runs import Run

from sglang_mezo_plugin.runs import journal
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.trainer import Trainer

Outcome = dict[str, Any]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Ten elements are not worth a second thread; a thousand runs would wait for it on a busy host."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Killed(BaseException):
    """As kill -9: nothing in the product catches it."""


class Killer:
    """Counts the places where a process can die, and dies at one of them."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.places: list[str] = []

    def place(self, name: str) -> None:
        self.places.append(name)
        if len(self.places) == self.at:
            raise Killed

    def surround(self, thing: object, *names: str) -> None:
        for name in names:
            setattr(thing, name, self._surrounded(name, getattr(thing, name)))

    def prepare(self, trainer: Trainer) -> None:
        self.surround(trainer.carrier, "score_pairs", "score", "step", "written", "save")
        self.surround(trainer.folder, "add_metrics", "add_evaluation", "write_summary")
        self.surround(trainer.optimizer, "update")
        self.surround(trainer.journal, "append")
        self.surround(trainer.observers[0], "on_start", "on_step", "on_eval", "on_end")

    def write(self, file: Any, line: bytes) -> None:
        """Stand in for the journal's one write, torn in the middle."""
        file.write(line[: len(line) // 2])
        self.place("half a line")
        file.write(line[len(line) // 2 :])

    def _surrounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.place(f"before {name}")
            result = function(*args, **kwargs)
            self.place(f"after {name}")
            return result

        return call


def outcome(run: Run) -> Outcome:
    """All that a run leaves, but for the seconds that it took."""
    metrics = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    summary = json.loads(run.folder.summary.read_text())
    del summary["seconds_per_step"]
    for line in metrics:
        del line["seconds"]
    return {
        "theta": run.carrier.bits(),
        "journal": run.folder.journal.read_bytes(),
        "evals": run.folder.evals.read_bytes(),
        "best": (run.folder.path / "best" / "theta").read_bytes(),
        "last": (run.folder.path / "last" / "theta").read_bytes(),
        "metrics": metrics,
        "summary": summary,
    }


@pytest.mark.parametrize(
    ("optimizer", "num_pairs"),
    [("sgd", 1), ("sgd", 3), ("momentum", 1), ("momentum", 2), ("adam", 1), ("adam", 2)],
)
def test_killed_anywhere(
    optimizer: str, num_pairs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainerConfig(
        steps=3,
        learning_rate=1e-2,
        num_pairs=num_pairs,
        seed=5,
        schedule="linear",
        eval_steps=2,
        projected_grad_clip=40.0,
    )
    counting = Killer(at=None)
    monkeypatch.setattr(journal, "_write", counting.write)
    whole = Run(tmp_path / "whole", config, optimizer)
    whole.go(counting.prepare)
    expected = outcome(whole)
    assert expected["theta"] != Run(tmp_path / "base", config).carrier.bits()
    assert len(counting.places) > 60
    for at, place in enumerate(counting.places, start=1):
        killer = Killer(at)
        monkeypatch.setattr(journal, "_write", killer.write)
        dying = Run(tmp_path / str(at), config, optimizer)
        with pytest.raises(Killed):
            dying.go(killer.prepare)
        resumed = Run(tmp_path / str(at), config, optimizer, resume=True)
        assert resumed.go().status == "finished"
        assert outcome(resumed) == expected, f"killed {place}, the {at}th place"


def test_killed_at_every_step_in_turn(tmp_path: Path) -> None:
    """Every process makes one step before it dies: what one resumes from was itself resumed."""
    config = TrainerConfig(steps=6, learning_rate=1e-2, eval_steps=2, warmup_steps=2, schedule="cosine")
    whole = Run(tmp_path / "whole", config, "adam")
    whole.go()
    for step in range(1, 7):
        run = Run(tmp_path / "resumed", config, "adam", resume=True)

        def die(trainer: Trainer, step: int = step) -> None:
            killer = Killer(at=2 if step > 1 else 1)
            killer.surround(trainer.observers[0], "on_step")

        if step < 6:
            with pytest.raises(Killed):
                run.go(die)
        else:
            run.go()
    assert outcome(run) == outcome(whole)
    assert [event[1] for event in run.log.events if event[0] == "step"] == [6]

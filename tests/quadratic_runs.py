"""A run on the quadratic, whole or resumed, for the tests of the loop."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quadratic import EXAMPLES, Quadratic

from sglang_mezo_plugin.runs.folder import RunFolder
from sglang_mezo_plugin.runs.journal import Header, StepRecord
from sglang_mezo_plugin.tasks.example import Batch, Example
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.estimators import PairEstimator
from sglang_mezo_plugin.training.objectives import completion, metrics
from sglang_mezo_plugin.training.optimizers import make_optimizer
from sglang_mezo_plugin.training.trainer import RunResult, Trainer

HEADER = Header({"task": "quadratic"}, {}, {})
THREE = TrainerConfig(steps=3, learning_rate=2.0**-7, seed=9)


@dataclass
class Log:
    """An observer that writes down what it hears, and then spoils it."""

    events: list[tuple[Any, ...]] = field(default_factory=list)

    def on_start(self, first_step: int, total_steps: int) -> None:
        self.events.append(("start", first_step, total_steps))

    def on_step(self, record: StepRecord, metrics: dict[str, Any]) -> None:
        self.events.append(("step", record.step, metrics["projected_grad"]))
        metrics.clear()

    def on_eval(self, step: int, metrics: dict[str, float]) -> None:
        self.events.append(("eval", step, metrics["loss"]))
        metrics.clear()

    def on_end(self, status: str) -> None:
        self.events.append(("end", status))


class Run:
    """What a command would build: all parts of a run, still to be started by `go`.

    losses: what evaluations find, in their order; without it, the model is evaluated.
    """

    def __init__(
        self,
        path: Path,
        config: TrainerConfig,
        optimizer: str = "sgd",
        resume: bool = False,
        examples: Sequence[Example] = EXAMPLES,
        evaluate: bool = True,
        losses: Sequence[float] | None = None,
    ) -> None:
        self.config = config
        self.resume = resume
        self.carrier = Quadratic(config.distribution)
        self.optimizer = make_optimizer(
            optimizer, learning_rate=config.learning_rate, weight_decay=0.1, momentum=0.8, adam_eps=1e-3
        )
        self.sampler = Sampler(examples, batch_size=2, seed=config.seed)
        self.folder = RunFolder(path)
        self.log = Log()
        self.evaluate: Callable[[], dict[str, float]] | None = self._evaluate if evaluate else None
        self._losses = losses and iter(losses)

    def go(self, prepare: Callable[[Trainer], None] | None = None) -> RunResult:
        """Open the journal and train. prepare: what to change in the trainer before."""
        with ExitStack() as stack:
            journal = stack.enter_context(self.folder.open_journal(HEADER, resume=self.resume))
            trainer = Trainer(
                self.carrier,
                self.optimizer,
                PairEstimator(self.carrier, completion, self.sampler, self.config),
                journal,
                self.folder,
                self.config,
                self.evaluate,
                [Log(), self.log],
                save_best=lambda: self.carrier.save(self.folder.path / "best"),
                save_last=self._save_last,
            )
            if prepare:
                prepare(trainer)
            return trainer.run()

    def _save_last(self) -> dict[str, str]:
        self.carrier.save(self.folder.path / "last")
        return {"output": "last"}

    def _evaluate(self) -> dict[str, float]:
        if self._losses:
            return {"loss": next(self._losses)}
        batch = Batch.of(EXAMPLES)
        return metrics(completion, [(batch.examples, self.carrier.score(batch))])


def at_step(step: int, action: Callable[[], None]) -> Callable[[Trainer], None]:
    """Do something in the middle of a step: after its forward pass, before anything is recorded."""

    def prepare(trainer: Trainer) -> None:
        score_pairs = trainer.carrier.score_pairs

        def acting(*args: Any) -> Any:
            scores = score_pairs(*args)
            if len(trainer.journal.records) == step - 1:
                action()
            return scores

        trainer.carrier.score_pairs = acting

    return prepare

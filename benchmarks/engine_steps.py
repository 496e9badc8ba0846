"""Training steps of this project as a user gets them: session, trainer, run folder, journal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from models import Model
from timing import Run

from sglang_mezo_plugin.engine.session import Session, open_session
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.noise import Distribution, Moves
from sglang_mezo_plugin.runs.folder import RunFolder
from sglang_mezo_plugin.runs.journal import Header, StepRecord
from sglang_mezo_plugin.tasks.example import Batch, Example
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.training.carrier import Carrier
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.estimators import PairEstimator
from sglang_mezo_plugin.training.objectives import Scores, completion
from sglang_mezo_plugin.training.optimizers import make_optimizer
from sglang_mezo_plugin.training.trainer import Trainer

EPS, LEARNING_RATE = 1e-3, 1e-6
HEADER = Header({"benchmark": True}, {}, {})


@dataclass(frozen=True)
class EngineOptions:
    """How sessions are opened. server_args: words of SGLang's own command line."""

    device: str
    dtype: torch.dtype
    batch_size: int
    lora_rank: int
    lora_target_modules: tuple[str, ...]
    server_args: tuple[str, ...]
    cuda_graph: bool = False


@contextmanager
def open_engine(
    model: Model,
    carrier: str,
    examples: Sequence[Example],
    options: EngineOptions,
    noise: Distribution = "gaussian",
) -> Iterator[Session]:
    """Yield a session on random weights. carrier: lora, full, or forward. noise: of its directions."""
    adapter = None
    if carrier == "lora":
        adapter = Adapter.fresh(
            model.folder,
            0,
            options.lora_rank,
            target_modules=options.lora_target_modules,
            distribution=noise,
        )
    # A session that does not train makes room for one copy: here each batch stands in a forward twice.
    copies = 2 if carrier == "forward" else 1
    with open_session(
        model.folder,
        adapter,
        trains=carrier != "forward",
        examples=[*examples] * copies,
        batch_size=options.batch_size * copies,
        distribution=noise,
        device=options.device,
        dtype=options.dtype,
        server_args=["--load-format", "dummy", *options.server_args],
        report=lambda line: print(line, file=sys.stderr, flush=True),
        cuda_graph=options.cuda_graph and carrier != "forward",
    ) as session:
        if carrier == "forward":
            session = replace(session, carrier=MirroredForward(session.carrier))
        yield session


def engine_run(carrier: Carrier, sampler: Sampler) -> Run:
    """Return what makes steps through a Trainer, each time from step 1 in a new run folder."""

    def run(steps: int, after_step: Callable[[float, float], None]) -> None:
        config = TrainerConfig(steps=steps, learning_rate=LEARNING_RATE, eps=EPS)
        with TemporaryDirectory() as path:
            folder = RunFolder(Path(path))
            with folder.open_journal(HEADER, resume=False) as journal:
                sgd = make_optimizer("sgd", learning_rate=LEARNING_RATE)
                observers = [_AfterStep(after_step)]
                estimator = PairEstimator(carrier, completion, sampler, config)
                Trainer(carrier, sgd, estimator, journal, folder, config, observers=observers).run()

    return run


class MirroredForward:
    """The forward of a training step alone: as many tokens, in one batch, and no weight moves.

    For the second half the prompts are turned round: equal sequences would share what they have in common.
    """

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def score_pairs(self, batch: Batch, seeds: Sequence[int], eps: float) -> list[tuple[Scores, Scores]]:
        others = [replace(example, prompt=example.prompt[::-1]) for example in batch.examples]
        scores = self._carrier.score(Batch((*batch.examples, *others), batch.identity))
        return [(scores[: len(others)], scores[len(others) :])]

    def step(self, moves: Moves, decay: float, rounding_seed: int) -> None:
        """There is nothing to move."""


class _AfterStep:
    """An observer that calls back with the losses of each step."""

    def __init__(self, after_step: Callable[[float, float], None]) -> None:
        self._after_step = after_step

    def on_start(self, first_step: int, total_steps: int) -> None: ...

    def on_step(self, record: StepRecord, metrics: dict[str, Any]) -> None:
        self._after_step(record.loss_plus[0], record.loss_minus[0])

    def on_eval(self, step: int, metrics: dict[str, float]) -> None: ...

    def on_end(self, status: str) -> None: ...

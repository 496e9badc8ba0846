"""The numbers of a run for TensorBoard, in OUT/tensorboard: tensorboard --logdir OUT."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sglang_mezo_plugin.runs.journal import StepRecord, writing

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoard:
    """An observer that writes scalars, and keeps none back: a kill loses nothing.

    For each step what `metrics.jsonl` says of it, as train/loss_plus, train/projected_grad, ..., and the mean
    of both losses of a pair as train/loss; for each evaluation eval/loss and, if there is one, eval/accuracy.

    folder: of the run. UserError if OUT/tensorboard cannot be made, or later if it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "tensorboard"
        self._writer: SummaryWriter
        with writing(self._path):
            self._path.mkdir(exist_ok=True)

    def on_start(self, first_step: int, total_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Hides all from that step on, which is made now. Only a run without a step starts with step 0, its
        # evaluation; a resumed one keeps that of the step before its first.
        purge_step = first_step if first_step > 1 else 0
        with writing(self._path):
            self._writer = SummaryWriter(self._path, purge_step=purge_step)

    def on_step(self, record: StepRecord, metrics: dict[str, Any]) -> None:
        drawn = metrics.keys() - {"step", "seconds"}
        scalars = {name: metrics[name] for name in sorted(drawn) if metrics[name] is not None}
        if "loss_plus" in metrics:
            scalars["loss"] = (metrics["loss_plus"] + metrics["loss_minus"]) / 2
        self._write("train", record.step, scalars)

    def on_eval(self, step: int, metrics: dict[str, float]) -> None:
        self._write("eval", step, metrics)

    def on_end(self, status: str) -> None:
        with writing(self._path):
            self._writer.close()

    def _write(self, group: str, step: int, scalars: dict[str, float]) -> None:
        with writing(self._path):
            for name, value in scalars.items():
                self._writer.add_scalar(f"{group}/{name}", value, step)
            # What a kill took from the queue would be missing for good: a resumed run makes no step twice.
            self._writer.flush()

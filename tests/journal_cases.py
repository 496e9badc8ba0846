"""A journal for the tests of its lines and of its file."""

from pathlib import Path

from sglang_mezo_plugin.runs.journal import Header, Journal, StepRecord

CONFIG = {"learning_rate": 1e-3, "schedule": "linear", "clip": None}
HEADER = Header(CONFIG, {"w.bin": "ab"}, {"d.jsonl": "cd"})


def record(step: int) -> StepRecord:
    """A step with floats that a shorter form than repr would change."""
    return StepRecord(
        step,
        seeds=(step << 32, step),
        loss_plus=(1 / 3, 5e-324),
        loss_minus=(2 / 3, 1e300),
        projected_grads=((0.1 + 0.2) * (-1) ** step, -0.0),
        learning_rate=1e-6 / step,
        batch="f" * 16,
    )


def write(path: Path, steps: int) -> Path:
    with Journal.create(path, HEADER) as journal:
        for step in range(1, steps + 1):
            journal.append(record(step))
    return path

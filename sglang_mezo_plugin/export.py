"""Rebuild the weights of any step of a run, from its journal and the base model.

    python -m sglang_mezo_plugin.export --run OUT --output-dir DIR [--step N]

Unusual: neither SGLang nor a GPU is needed, and one tensor at a time is in memory. The noise has the same
bits on every device, so what is written is, bit for bit, what the run had.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from sglang_mezo_plugin.cli.options import ExportOptions
from sglang_mezo_plugin.cli.parsing import make_parser
from sglang_mezo_plugin.errors import UserError, one_line_errors
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import find_checkpoint, read_tensors, tensor_shapes
from sglang_mezo_plugin.models.writing import write_checkpoint
from sglang_mezo_plugin.noise import Distribution, Moves, Region, StepNumbers, UpdatePlan
from sglang_mezo_plugin.runs.header import file_hashes, hashed_files
from sglang_mezo_plugin.runs.journal import Header, StepRecord, read_journal
from sglang_mezo_plugin.training.optimizers import Optimizer, OptimizerConfig, make_optimizer
from sglang_mezo_plugin.training.trainer import replay


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors():
        export(ExportOptions.of(vars(make_parser(ExportOptions, __doc__).parse_args(argv))))


def export(options: ExportOptions) -> None:
    """Write an adapter or a checkpoint. Raises UserError if the base is not what the run began with."""
    run, target = Path(options.run), Path(options.output_dir)
    if target.exists():
        raise UserError(f"--output-dir {target} exists: choose another one")
    header, records = read_journal(run / "journal.jsonl")
    step = len(records) if options.step is None else options.step
    if not 0 <= step <= len(records):
        raise UserError(f"--step {step}: the journal has steps 0 to {len(records)}: name one of them")
    of_run = _read(run / "options.json")
    checkpoint = find_checkpoint(options.model_path or of_run["model_path"])
    started = options.lora_path or of_run["lora_path"]
    lora_path = Path(started) if started and header.config["mode"] == "lora" else None
    _check_hashes(header, checkpoint, lora_path)
    if header.config["mode"] == "lora":
        _export_adapter(target, checkpoint, lora_path, header, records[:step])
    else:
        trained = set(_read(run / "parameters.json"))
        itemsize = getattr(torch, header.config["dtype"]).itemsize
        shapes = tensor_shapes(checkpoint)
        sizes = {name: shape.numel() * itemsize for name, shape in shapes.items() if name in trained}
        write_checkpoint(target, checkpoint, sizes, _tensors(checkpoint, trained, header, records[:step]))
    print(f"step {step} of {run}, bit for bit as the run had it: {target}", file=sys.stderr)


class _TensorCarrier:
    """One tensor of a checkpoint."""

    def __init__(self, name: str, tensor: torch.Tensor, distribution: Distribution) -> None:
        region = Region.whole(name, tensor.shape)
        matrix = tensor.flatten(1) if tensor.dim() > 2 else tensor
        self._plan = UpdatePlan([(matrix, region, tensor.dim() > 1)], distribution)

    def step(self, moves: Moves, decay: float, rounding_seed: int) -> None:
        self._plan.accumulate_(StepNumbers.moving("cpu", moves, rounding_seed, decay))


def _export_adapter(
    target: Path, checkpoint: Path, lora_path: Path | None, header: Header, records: Sequence[StepRecord]
) -> None:
    config = header.config
    if lora_path:
        adapter = Adapter.load(lora_path, checkpoint, config["distribution"])
    else:
        adapter = Adapter.fresh(
            checkpoint,
            config["seed"],
            config["lora_rank"],
            config["lora_alpha"],
            config["lora_target_modules"],
            config["lora_layers_to_transform"],
            config["distribution"],
        )
    replay(adapter, _optimizer(header), records)
    adapter.save(target)


def _tensors(
    checkpoint: Path, trained: set[str], header: Header, records: Sequence[StepRecord]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the trained tensors of the checkpoint; what else it has are copies of tied weights."""
    for name, tensor in read_tensors(checkpoint):
        if name in trained:
            tensor = tensor.to(getattr(torch, header.config["dtype"])).contiguous()
            carrier = _TensorCarrier(name, tensor, header.config["distribution"])
            replay(carrier, _optimizer(header), records)
            yield name, tensor


def _optimizer(header: Header) -> Optimizer:
    config = header.config
    numbers = {field.name: config[field.name] for field in fields(OptimizerConfig) if field.name in config}
    return make_optimizer(config["optimizer"], learning_rate=config["learning_rate"], **numbers)


def _check_hashes(header: Header, checkpoint: Path, lora_path: Path | None) -> None:
    files = {file.name: file for file in hashed_files(checkpoint, lora_path)}
    found = file_hashes([file for file in files.values() if file.is_file()])
    for name in sorted(files.keys() | header.model.keys()):
        if found.get(name) != header.model.get(name):
            raise UserError(
                f"{files.get(name, name)} is not what the run began with: restore it, or pass --model-path "
                "or --lora-path"
            )


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({error}): name the --output-dir of a run") from None


if __name__ == "__main__":
    main()

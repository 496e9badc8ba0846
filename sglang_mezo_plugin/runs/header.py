"""What makes a run what it is: the header of its journal."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from sglang_mezo_plugin.models.checkpoint import weight_files
from sglang_mezo_plugin.models.peft_files import CONFIG, WEIGHTS
from sglang_mezo_plugin.runs.journal import Header

# Options that decide what is computed. Those of the run's length count where the schedule depends on them.
METHOD = (
    "mode",
    "batch_size",
    "seed",
    "eps",
    "learning_rate",
    "num_pairs",
    "distribution",
    "optimizer",
    "weight_decay",
    "projected_grad_clip",
    "schedule",
    "warmup_steps",
)
OPTIMIZER = {"sgd": (), "momentum": ("momentum",), "adam": ("adam_betas", "adam_eps")}
EVOLUTION = (
    "mode",
    "seed",
    "population",
    "estimator",
    "shaping",
    "eps",
    "learning_rate",
    "distribution",
    "optimizer",
    "weight_decay",
    "schedule",
    "warmup_steps",
    "batch_size",
    "reward",
    "chat",
    "max_new_tokens",
    "temperature",
    "top_p",
    "top_k",
    "stop",
)
LORA = ("lora_rank", "lora_alpha", "lora_target_modules", "lora_layers_to_transform")


def make_header(
    args: argparse.Namespace, checkpoint: Path, dtype: torch.dtype, objective: str, examples: str
) -> Header:
    """Return the header for a run's options.

    examples: digest of the tokenised training examples. SHA-256 of all weights takes about a second a
    gigabyte and thread.
    """
    config = {"dtype": str(dtype).removeprefix("torch."), "objective": objective}
    return _header(args, METHOD, config, checkpoint, {"train examples": examples})


def make_evolution_header(args: argparse.Namespace, checkpoint: Path, questions: str) -> Header:
    """Return the header for the options of a run by evolution strategies. questions: their digest."""
    return _header(args, EVOLUTION, {}, checkpoint, {"train questions": questions})


def _header(
    args: argparse.Namespace,
    options: Sequence[str],
    config: dict[str, Any],
    checkpoint: Path,
    data: dict[str, str],
) -> Header:
    names = [*options, *OPTIMIZER[args.optimizer]]
    if args.schedule != "constant":
        names.append("steps")
    if args.mode == "lora" and not args.lora_path:
        names.extend(LORA)
    config = {name: getattr(args, name) for name in names} | config
    lora_path = Path(args.lora_path) if args.mode == "lora" and args.lora_path else None
    return Header(_as_json(config), file_hashes(hashed_files(checkpoint, lora_path)), data)


def hashed_files(checkpoint: Path, lora_path: Path | None) -> list[Path]:
    """Return the files that a run begins with: the base model's, and the adapter's if there is one."""
    files = [checkpoint / "config.json", *weight_files(checkpoint)]
    return files + [lora_path / name for name in (CONFIG, WEIGHTS)] if lora_path else files


def file_hashes(files: list[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by name, several at a time."""
    with ThreadPoolExecutor() as pool:
        return dict(zip([file.name for file in files], pool.map(_sha256, files), strict=True))


def _as_json(config: dict[str, object]) -> dict[str, object]:
    """Return the values as a JSON file gives them back: headers are compared."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()

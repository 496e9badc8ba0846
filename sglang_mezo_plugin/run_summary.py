"""What a run folder says about itself, and how its result is served."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

import torch

from sglang_mezo_plugin.adapter import Adapter

CPU_FLAGS = (
    "--device cpu --attention-backend torch_native --sampling-backend pytorch --grammar-backend none "
    "--disable-cuda-graph"
)

TEXT = """# A run of sglang-mezo

    python -m sglang_mezo_plugin.train {words}

| file | |
| --- | --- |
| `journal.jsonl` | every step, checksummed; with the base model it rebuilds the weights of any step |
| `metrics.jsonl`, `evals.jsonl` | the numbers of each step, and of each evaluation |
| `options.json` | all options |
| `parameters.json` | names of the trained parameters |
| `summary.json`, `loss.png` | how it ended |
| `{output}` | the result.{best} |
| `tensorboard/` | `tensorboard --logdir {folder}` |

Go on with it: the same command with `--resume`. Weights of step N:

    python -m sglang_mezo_plugin.export --run {folder} --step N --output-dir DIR
"""


BEST = " `best/`: the adapter with the lowest evaluation loss."


def describe_run(
    folder: Path, words: Sequence[str], args: argparse.Namespace, server_args: Sequence[str]
) -> None:
    """Write README.md and options.json."""
    text = TEXT.format(
        words=shlex.join(word for word in words if word != "--resume"),
        folder=folder,
        output="adapter/" if args.mode == "lora" else "model/",
        best=BEST if args.mode == "lora" else "",
    )
    (folder / "README.md").write_text(text)
    options = {**vars(args), "server_args": list(server_args)}
    (folder / "options.json").write_text(json.dumps(options, indent=2, default=str) + "\n")


def serve_command(checkpoint: Path, trained: Path, adapter: Adapter | None, device: str | None) -> str:
    """Return the command that serves a trained model, or the base model with a trained adapter."""
    model = f"--model-path {checkpoint} --enable-lora --lora-paths mezo={trained}"
    words = f"--model-path {trained}" if adapter is None else model
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    return f"python -m sglang.launch_server {words}{' ' + CPU_FLAGS if on_cpu else ''}"

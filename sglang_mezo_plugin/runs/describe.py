"""What a run folder says about itself, and how its result is served."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ON_CPU = [
    *("--device", "cpu", "--attention-backend", "torch_native", "--sampling-backend", "pytorch"),
    *("--grammar-backend", "none", "--disable-cuda-graph"),
]
# What `export` looks for, perhaps from another working directory.
PATHS = ("model_path", "lora_path")

TEXT = """# A run of sglang-mezo

    python -m sglang_mezo_plugin.{command} {words}

| file | |
| --- | --- |
| `journal.jsonl` | every step, checksummed; with the base model it rebuilds the weights of any step |
| `metrics.jsonl`, `evals.jsonl` | the numbers of each step, and of each evaluation |
| `options.json` | all options |
| `parameters.json` | names of the trained parameters |
| `summary.json`, `{picture}` | how it ended |
| `{output}` | the result.{best} |
| `tensorboard/` | `tensorboard --logdir {folder}` |

Go on with it: the same command with `--resume`. Weights of step N:

    python -m sglang_mezo_plugin.export --run {folder} --step N --output-dir DIR
"""


BEST = " `best/`: the adapter with the best evaluation."
SECRETS = ("--api-key", "--admin-api-key")


def describe_run(
    folder: Path,
    words: Sequence[str],
    options: Mapping[str, Any],
    server_args: Sequence[str],
    parameters: Sequence[str],
    command: str,
    picture: str,
) -> None:
    """Write README.md, options.json and parameters.json; keys of servers are left out of them.

    words: the command's line, picture: the file that shows the run.
    """
    lora = options["mode"] == "lora"
    text = TEXT.format(
        command=command,
        words=shlex.join(_public(word for word in words if word != "--resume")),
        folder=shlex.quote(str(folder.resolve())),
        output="adapter/" if lora else "model/",
        picture=picture,
        best=BEST if lora else "",
    )
    (folder / "README.md").write_text(text)
    options = {**options, "server_args": _public(server_args)}
    for name in SECRETS:
        options.pop(name.removeprefix("--").replace("-", "_"), None)
    for name in PATHS:
        if options[name] and Path(options[name]).exists():  # it may be a name on the hub
            options[name] = str(Path(options[name]).resolve())
    (folder / "options.json").write_text(json.dumps(options, indent=2) + "\n")
    (folder / "parameters.json").write_text(json.dumps(list(parameters), indent=0) + "\n")


def serve_command(options: Mapping[str, Any], checkpoint: Path, trained: Path, dtype: torch.dtype) -> str:
    """Return the command that serves a trained model, or the base model with a trained adapter.

    The dtype is named: SGLang would serve fp32 weights in 16 bits.
    """
    words = ["--model-path", str(trained.resolve())]
    if options["mode"] == "lora":
        words = ["--model-path", str(checkpoint.resolve()), "--enable-lora"]
        words += ["--lora-paths", f"mezo={trained.resolve()}"]
    words += ["--dtype", str(dtype).removeprefix("torch.")]
    if options["tp_size"] > 1:
        words += ["--tp-size", str(options["tp_size"])]
    if options["tokenizer_path"]:
        words += ["--tokenizer-path", options["tokenizer_path"]]
    if options["device"] == "cpu" or not torch.cuda.is_available():
        words += ON_CPU
    return shlex.join(["python", "-m", "sglang.launch_server", *words])


def serve_adapter_command(checkpoint: Path, trained: Path, server_args: Sequence[str]) -> str:
    """Return the command that serves an adapter on its base, with the options that its run gave a server."""
    words = ["--model-path", str(checkpoint.resolve()), "--enable-lora"]
    words += ["--lora-paths", f"mezo={trained.resolve()}", *_public(server_args)]
    return shlex.join(["python", "-m", "sglang.launch_server", *words])


def _public(words: Iterable[str]) -> list[str]:
    """Return words of a command line without the keys that are among them."""
    public: list[str] = []
    for word in words:
        option, equals, _ = word.partition("=")
        if public and public[-1] in SECRETS:
            public.append("KEY")
        else:
            public.append(f"{option}=KEY" if equals and option in SECRETS else word)
    return public

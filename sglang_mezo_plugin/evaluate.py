"""Score a model, an adapter, or in-context examples: loss and accuracy, as training measures them.

    python -m sglang_mezo_plugin.evaluate --model-path DIR --eval-file E.jsonl
    python -m sglang_mezo_plugin.evaluate --model-path DIR --eval-file E.jsonl --lora-path OUT/adapter
    python -m sglang_mezo_plugin.evaluate --model-path DIR --eval-file E.jsonl \\
        --train-file T.jsonl --num-shots 8

The result is a JSON object on stdout.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sglang_mezo_plugin.cli.inputs import choose_objective, load_examples, load_records, load_tokenizer
from sglang_mezo_plugin.cli.models import dtype_of
from sglang_mezo_plugin.cli.options import EvaluateOptions
from sglang_mezo_plugin.cli.parsing import read_options
from sglang_mezo_plugin.cli.runs import report
from sglang_mezo_plugin.engine.ranks.leader import Ranks
from sglang_mezo_plugin.engine.ranks.worker import follow
from sglang_mezo_plugin.errors import UserError, one_line_errors, quiet_libraries
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import find_checkpoint
from sglang_mezo_plugin.patching.series import require_patched
from sglang_mezo_plugin.tasks.example import Example, Record
from sglang_mezo_plugin.tasks.in_context import with_demonstrations
from sglang_mezo_plugin.training import objectives


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        print(json.dumps(evaluate(*read_options(EvaluateOptions, __doc__, argv))))


def evaluate(options: EvaluateOptions, server_args: Sequence[str]) -> dict[str, float]:
    """Return {"loss", "accuracy", "examples"}; accuracy only where there are options."""
    if options.predictions_file and not Path(options.predictions_file).parent.is_dir():
        raise UserError(
            f"--predictions-file {options.predictions_file}: there is no such folder: make it first"
        )
    ranks = Ranks(options.layout, follow)
    require_patched()
    checkpoint = find_checkpoint(options.model_path)
    dtype = dtype_of(options.dtype, checkpoint)
    records = load_records(options, options.eval_file, options.max_eval_examples)
    objective = choose_objective(options, records)
    records = with_demonstrations(records, _demonstrations(options))
    examples = load_examples(options, records, load_tokenizer(options, checkpoint), checkpoint)
    adapter = Adapter.load(Path(options.lora_path), checkpoint) if options.lora_path else None
    report(f"{len(examples)} examples; starting SGLang ...")
    # Not before: it takes half a minute on a host without a GPU.
    from sglang_mezo_plugin.engine.session import open_session

    with open_session(
        checkpoint,
        adapter,
        trains=False,
        examples=examples,
        batch_size=options.batch_size,
        device=options.device,
        dtype=dtype,
        server_args=server_args,
        report=report,
        ranks=ranks,
    ) as session:
        scored = list(session.score(examples))
        if options.predictions_file:
            _write_predictions(Path(options.predictions_file), objectives.OBJECTIVES[objective], scored)
        return {
            **objectives.metrics(objectives.OBJECTIVES[objective], scored),
            "examples": len(examples),
            "cache_hit_rate": session.carrier.hit_rate,
        }


def _write_predictions(
    file: Path, objective: objectives.Objective, scored: list[tuple[list[Example], objectives.Scores]]
) -> None:
    with file.open("w") as lines:
        for examples, scores in scored:
            for example, options in zip(examples, scores, strict=True):
                means = [float(logprobs.mean(dtype=np.float64)) for logprobs in options]
                row = {
                    "label": example.label,
                    "predicted": int(np.argmax(means)),
                    "loss": objectives.loss(objective, [example], [options]),
                    "scores": means,
                }
                lines.write(json.dumps(row) + "\n")


def _demonstrations(options: EvaluateOptions) -> list[Record]:
    if options.num_shots == 0:
        return []
    if options.num_shots < 0 or not options.train_file:
        raise UserError("--num-shots takes a number of 1 or more, and --train-file to draw from")
    records = load_records(options, options.train_file)
    if options.num_shots > len(records):
        raise UserError(f"--num-shots {options.num_shots}: {options.train_file} has {len(records)} examples")
    return random.Random(options.seed).sample(records, options.num_shots)


if __name__ == "__main__":
    main()

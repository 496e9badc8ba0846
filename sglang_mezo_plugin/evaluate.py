"""Score a model, an adapter, or in-context examples: loss and accuracy, as training measures them.

    python -m sglang_mezo_plugin.evaluate --model-path DIR --eval-file E.jsonl
    python -m sglang_mezo_plugin.evaluate --model-path DIR --eval-file E.jsonl --lora-path OUT/adapter
    python -m sglang_mezo_plugin.evaluate --model-path DIR --eval-file E.jsonl \\
        --train-file T.jsonl --num-shots 8

The result is a JSON object on stdout.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from sglang_mezo_plugin.cli.inputs import choose_objective, load_examples, load_records, load_tokenizer
from sglang_mezo_plugin.cli.options import Parser, add_data_options, add_model_options, parse
from sglang_mezo_plugin.engine.ranks.layout import Layout
from sglang_mezo_plugin.engine.ranks.leader import Ranks
from sglang_mezo_plugin.engine.ranks.worker import follow
from sglang_mezo_plugin.errors import UserError, one_line_errors, quiet_libraries
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import checkpoint_dtype, find_checkpoint
from sglang_mezo_plugin.patching.series import require_patched
from sglang_mezo_plugin.tasks.example import Example, Record
from sglang_mezo_plugin.tasks.in_context import with_demonstrations
from sglang_mezo_plugin.training import objectives


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        args, server_args = parse(make_parser(), argv)
        print(json.dumps(evaluate(args, server_args)))


def make_parser() -> Parser:
    parser = Parser(*__doc__.split("\n\n", 1))
    add_model_options(parser)
    data = add_data_options(parser)
    data.add_argument("--eval-file", required=True, metavar="FILE")
    data.add_argument("--max-eval-examples", type=int, metavar="N", help="use the first N; default: all")
    data.add_argument("--train-file", metavar="FILE", help="where in-context examples are drawn from")
    group = parser.add_argument_group("evaluation")
    group.add_argument("--lora-path", metavar="DIR", help="a PEFT adapter")
    group.add_argument("--num-shots", type=int, default=0, help="in-context examples; default: 0")
    group.add_argument("--seed", type=int, default=0, help="of the draw of in-context examples")
    group.add_argument(
        "--predictions-file",
        metavar="FILE",
        help="a JSON line an example: label, predicted, loss, scores (options' mean log-probabilities)",
    )
    group.add_argument("--batch-size", type=int, default=16, help="default: 16")
    return parser


def evaluate(args: argparse.Namespace, server_args: Sequence[str]) -> dict[str, float]:
    """Return {"loss", "accuracy", "examples"}; accuracy only where there are options."""
    if args.batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, not {args.batch_size}")
    if args.predictions_file and not Path(args.predictions_file).parent.is_dir():
        raise UserError(f"--predictions-file {args.predictions_file}: there is no such folder: make it first")
    ranks = Ranks(Layout(args.tp_size, args.dp_size), follow)
    require_patched()
    checkpoint = find_checkpoint(args.model_path)
    dtype = checkpoint_dtype(checkpoint) if args.dtype == "auto" else getattr(torch, args.dtype)
    records = load_records(args, args.eval_file, args.max_eval_examples)
    objective = choose_objective(args, records)
    records = with_demonstrations(records, _demonstrations(args))
    examples = load_examples(args, records, load_tokenizer(args, checkpoint), checkpoint)
    adapter = Adapter.load(Path(args.lora_path), checkpoint) if args.lora_path else None
    print(f"{len(examples)} examples; starting SGLang ...", file=sys.stderr, flush=True)
    # Not before: it takes half a minute on a host without a GPU.
    from sglang_mezo_plugin.engine.session import open_session

    with open_session(
        checkpoint,
        adapter,
        trains=False,
        examples=examples,
        batch_size=args.batch_size,
        device=args.device,
        dtype=dtype,
        server_args=server_args,
        report=lambda line: print(line, file=sys.stderr, flush=True),
        ranks=ranks,
    ) as session:
        scored = list(session.score(examples))
        if args.predictions_file:
            _write_predictions(Path(args.predictions_file), objectives.OBJECTIVES[objective], scored)
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


def _demonstrations(args: argparse.Namespace) -> list[Record]:
    if args.num_shots == 0:
        return []
    if args.num_shots < 0 or not args.train_file:
        raise UserError("--num-shots takes a number of 1 or more, and --train-file to draw from")
    records = load_records(args, args.train_file)
    if args.num_shots > len(records):
        raise UserError(f"--num-shots {args.num_shots}: {args.train_file} has {len(records)} examples")
    return random.Random(args.seed).sample(records, args.num_shots)


if __name__ == "__main__":
    main()

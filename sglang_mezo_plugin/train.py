"""Fine-tune a language model with forward passes alone: MeZO through SGLang's own ModelRunner.

    python -m sglang_mezo_plugin.train --model-path DIR --train-file T.jsonl --eval-file E.jsonl \\
        --mode lora --steps 1000 --batch-size 16 --output-dir OUT

Unusual: there is no backward pass and no optimizer state, weights do not move while they are probed, and
OUT/journal.jsonl alone, with the base model, rebuilds the weights of any step (`python -m
sglang_mezo_plugin.export`). A run that is killed goes on with --resume and ends with the same bits. SIGINT or
SIGTERM ends it after the step, its result saved; the exit code is 0.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sglang_mezo_plugin.cli.inputs import (
    choose_objective,
    digest,
    load_examples,
    load_records,
    load_tokenizer,
)
from sglang_mezo_plugin.cli.options import (
    Parser,
    add_data_options,
    add_lora_options,
    add_method_options,
    add_model_options,
    add_run_options,
    add_training_options,
    parse,
)
from sglang_mezo_plugin.engine.ranks.layout import Layout
from sglang_mezo_plugin.engine.ranks.leader import Ranks
from sglang_mezo_plugin.engine.ranks.worker import follow
from sglang_mezo_plugin.errors import UserError, one_line_errors, quiet_libraries
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import checkpoint_dtype, find_checkpoint, read_config
from sglang_mezo_plugin.patching.series import require_patched
from sglang_mezo_plugin.runs.describe import describe_run, serve_command
from sglang_mezo_plugin.runs.folder import RunFolder
from sglang_mezo_plugin.runs.header import make_header
from sglang_mezo_plugin.runs.journal import Header, holds_run, read_journal
from sglang_mezo_plugin.runs.observers.plots import plot_losses
from sglang_mezo_plugin.runs.observers.progress import Progress
from sglang_mezo_plugin.runs.observers.tensorboard import TensorBoard
from sglang_mezo_plugin.tasks.example import Example
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.training import objectives
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.estimators import PairEstimator
from sglang_mezo_plugin.training.optimizers import Optimizer, make_optimizer
from sglang_mezo_plugin.training.trainer import RunResult, Trainer, check_steps

PAPER_DEFAULTS = {"lora": {"learning_rate": 1e-4, "eps": 1e-2}, "full": {"learning_rate": 1e-6, "eps": 1e-3}}


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        words = sys.argv[1:] if argv is None else list(argv)
        train(words)


def make_parser() -> Parser:
    parser = Parser(*__doc__.split("\n\n", 1))
    add_model_options(parser)
    data = add_data_options(parser)
    data.add_argument("--train-file", required=True, metavar="FILE")
    data.add_argument("--eval-file", metavar="FILE", help="default: no evaluation")
    data.add_argument("--max-train-examples", type=int, metavar="N", help="use the first N; default: all")
    data.add_argument("--max-eval-examples", type=int, metavar="N", help="use the first N; default: all")
    add_method_options(parser)
    add_lora_options(parser)
    add_training_options(add_run_options(parser))
    return parser


def train(words: Sequence[str]) -> RunResult:
    """Run a training from the words of its command line. Raises UserError for bad input."""
    args, server_args = parse(make_parser(), words)
    ranks = Ranks(Layout(args.tp_size, args.dp_size), follow)
    for name, value in PAPER_DEFAULTS[args.mode].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.lora_target_modules == ["all-linear"]:
        args.lora_target_modules = "all-linear"
    config, optimizer = trainer_config(args), optimizer_of(args)
    folder = RunFolder(Path(args.output_dir))
    if holds_run(folder.journal) and not args.resume:
        raise UserError(f"{folder.path} holds another run: choose another --output-dir, or add --resume")
    require_patched()
    checkpoint = find_checkpoint(args.model_path)
    if args.mode == "full" and read_config(checkpoint).get("quantization_config"):
        raise UserError(
            f"{checkpoint / 'config.json'} has a quantization_config: name the model with its original "
            "weights, or use --mode lora"
        )
    dtype = checkpoint_dtype(checkpoint) if args.dtype == "auto" else getattr(torch, args.dtype)
    examples, eval_examples, objective = read_data(args, checkpoint)
    sampler = Sampler(examples, args.batch_size, args.seed)
    adapter = make_adapter(args, checkpoint) if args.mode == "lora" else None
    header = make_header(args, checkpoint, dtype, objective, digest(examples))
    check_resumable(folder, header, config)
    report(f"{len(examples)} examples to train on, {len(eval_examples)} to evaluate on; starting SGLang ...")
    # Not before: it takes half a minute on a host without a GPU.
    from sglang_mezo_plugin.engine.session import open_session

    with (
        open_session(
            checkpoint,
            adapter,
            trains=True,
            examples=examples,
            eval_examples=eval_examples,
            batch_size=args.batch_size,
            num_pairs=args.num_pairs,
            distribution=config.distribution,
            device=args.device,
            dtype=dtype,
            server_args=server_args,
            report=report,
            ranks=ranks,
            cuda_graph=args.cuda_graph,
        ) as session,
        # Only now: until the engine runs, nothing in the folder changes.
        folder.open_journal(header, resume=args.resume) as journal,
    ):
        carrier = session.carrier
        describe_run(folder.path, words, args, server_args, carrier.names)
        function = objectives.OBJECTIVES[objective]
        trained = folder.path / ("model" if adapter is None else "adapter")
        command = serve_command(args, checkpoint, trained, dtype)

        def save_last() -> dict[str, Any]:
            report(f"writing {trained} ...")
            carrier.save(trained)
            return {"cache_hit_rate": carrier.hit_rate, "output": str(trained), "serve": command}

        trainer = Trainer(
            carrier,
            session.spread(optimizer),
            PairEstimator(carrier, function, sampler, config),
            journal,
            folder,
            config,
            evaluate=(lambda: session.evaluate(function, eval_examples)) if eval_examples else None,
            observers=[Progress(folder.path, quiet=args.quiet), TensorBoard(folder.path)],
            save_best=(lambda: carrier.save(folder.path / "best")) if adapter is not None else None,
            save_last=save_last,
        )
        result = trainer.run()
    plot_losses(folder.path)
    finish(folder.path, result, command)
    return result


def check_resumable(folder: RunFolder, header: Header, config: TrainerConfig) -> None:
    """Refuse early what opening the journal, and training on, would refuse once the engine runs."""
    if holds_run(folder.journal):
        known, records = read_journal(folder.journal)
        known.check_same_run(header, folder.path)
        check_steps(folder.journal, records, config)


def trainer_config(args: argparse.Namespace) -> TrainerConfig:
    names = TrainerConfig.__dataclass_fields__
    return TrainerConfig(**{name: getattr(args, name) for name in names})


def optimizer_of(args: argparse.Namespace) -> Optimizer:
    if args.mode == "full" and args.optimizer != "sgd":
        raise UserError(
            f"--optimizer {args.optimizer} would keep copies of all weights: use sgd with --mode full"
        )
    return make_optimizer(
        args.optimizer,
        learning_rate=args.learning_rate,
        weight_decay=args.weight_decay,
        momentum=args.momentum,
        adam_betas=tuple(args.adam_betas),
        adam_eps=args.adam_eps,
    )


def read_data(args: argparse.Namespace, checkpoint: Path) -> tuple[list[Example], list[Example], str]:
    """Return examples to train on, to evaluate on, and the objective's name."""
    records = [load_records(args, args.train_file, args.max_train_examples)]
    if args.eval_file:
        records.append(load_records(args, args.eval_file, args.max_eval_examples))
    objective = choose_objective(args, *records)
    tokenizer = load_tokenizer(args, checkpoint)
    examples = [load_examples(args, part, tokenizer, checkpoint) for part in records]
    return examples[0], examples[1] if args.eval_file else [], objective


def make_adapter(args: argparse.Namespace, checkpoint: Path) -> Adapter:
    if args.lora_path:
        return Adapter.load(Path(args.lora_path), checkpoint, args.distribution)
    return Adapter.fresh(
        checkpoint,
        args.seed,
        args.lora_rank,
        args.lora_alpha,
        args.lora_target_modules,
        args.lora_layers_to_transform,
        args.distribution,
    )


def finish(folder: Path, result: RunResult, command: str, picture: str = "loss.png") -> None:
    """Print what has come of a run."""
    for name, evaluation in (("before", result.first_evaluation), ("after", result.last_evaluation)):
        if evaluation:
            hidden = {"step", "loss"} if "reward" in evaluation else {"step"}
            numbers = "  ".join(
                f"{key} {value:.4f}" for key, value in evaluation.items() if key not in hidden
            )
            print(f"{name:>7} (step {evaluation['step']}): {numbers}")
    print(f"{result.status} at step {result.last_step}; the run is in {folder}: see its README.md, {picture}")
    if result.status == "stopped":
        print("go on with it: the same command with --resume")
    print(f"serve it:\n  {command}")


def report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

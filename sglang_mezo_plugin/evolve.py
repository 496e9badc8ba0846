"""Tune an adapter by evolution strategies: rewards on generated text, asked of a running SGLang server.

    python -m sglang_mezo_plugin.evolve --launch-server --model-path DIR --train-file T.jsonl \\
        --reward module:function --steps 100 --population 30 --output-dir OUT

Unusual: a population is seeds. The server holds some members' adapters at a time, made from the noise, sent
with a request and gone after it; nothing is restarted, and its other users are served meanwhile. A reward is
any Python function of (prompt, completion, record). The run folder, --resume and `export` are those of
training. With --server URL in place of --launch-server a server that runs already is asked.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sglang_mezo_plugin.cli.inputs import digest
from sglang_mezo_plugin.cli.options import (
    Parser,
    add_lora_options,
    add_population_options,
    add_question_options,
    add_run_options,
    add_server_options,
    parse,
)
from sglang_mezo_plugin.client import Retries, Sampling, Server
from sglang_mezo_plugin.client.launch import LaunchedServer, lora_words
from sglang_mezo_plugin.errors import UserError, one_line_errors, quiet_libraries
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import find_checkpoint
from sglang_mezo_plugin.models.merge import write_merged
from sglang_mezo_plugin.models.peft_files import target_names
from sglang_mezo_plugin.patching.series import require_patched
from sglang_mezo_plugin.rewards.loading import load_reward
from sglang_mezo_plugin.runs.describe import describe_run, serve_adapter_command
from sglang_mezo_plugin.runs.folder import RunFolder
from sglang_mezo_plugin.runs.header import make_evolution_header
from sglang_mezo_plugin.runs.journal import holds_run
from sglang_mezo_plugin.runs.observers.plots import plot_rewards
from sglang_mezo_plugin.runs.observers.progress import Progress, reward_numbers
from sglang_mezo_plugin.runs.observers.tensorboard import TensorBoard
from sglang_mezo_plugin.tasks.questions import read_questions
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.train import check_resumable, finish, make_adapter, optimizer_of, report
from sglang_mezo_plugin.training.config import TrainerConfig
from sglang_mezo_plugin.training.evolution import population_metrics
from sglang_mezo_plugin.training.population import Population, Strategy
from sglang_mezo_plugin.training.trainer import RunResult, Trainer

MEMORY = "/dev/shm"
SLOTS = 32  # members in a batch, at most, of a server that is launched without --max-loras-per-batch


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        evolve(sys.argv[1:] if argv is None else list(argv))


def make_parser() -> Parser:
    parser = Parser(*__doc__.split("\n\n", 1))
    parser.add_argument(
        "--model-path",
        required=True,
        help="folder of the server's model, or name on the hub; with --server its config.json will do",
    )
    add_server_options(parser)
    add_question_options(parser)
    add_population_options(parser)
    add_lora_options(parser, "adapter")
    run = add_run_options(parser)
    run.add_argument(
        *("--steps", "--generations"), dest="steps", type=int, default=100, help="generations; default: 100"
    )
    run.add_argument("--batch-size", type=int, metavar="N", help="prompts of a generation; default: all")
    parser.set_defaults(mode="lora")
    return parser


def evolve(words: Sequence[str]) -> RunResult:
    """Run what a command line asks for. Raises UserError for bad input."""
    args, server_args = parse(make_parser(), words)
    if server_args and not args.launch_server:
        raise UserError(f"{server_args[0]}: no option of this command; SGLang's go with --launch-server")
    if args.lora_target_modules == ["all-linear"]:
        args.lora_target_modules = "all-linear"
    args.api_key = args.api_key or os.environ.get("SGLANG_API_KEY")
    config, optimizer, strategy = config_of(args), optimizer_of(args), strategy_of(args)
    folder = RunFolder(Path(args.output_dir), population_metrics)
    if holds_run(folder.journal) and not args.resume:
        raise UserError(f"{folder.path} holds another run: choose another --output-dir, or add --resume")
    if args.launch_server:
        require_patched()
    reward = load_reward(args.reward)
    eval_reward = load_reward(args.eval_reward) if args.eval_reward else reward
    questions = read_questions(args.train_file, args.max_train_examples, args.chat)
    eval_questions = (
        read_questions(args.eval_file, args.max_eval_examples, args.chat) if args.eval_file else []
    )
    if args.batch_size is None:
        args.batch_size = len(questions)
    sampler = Sampler(questions, args.batch_size, args.seed)
    checkpoint = find_checkpoint(args.model_path)
    adapter = make_adapter(args, checkpoint)
    header = make_evolution_header(args, checkpoint, digest(questions))
    check_resumable(folder, header, config)
    report(f"{len(questions)} prompts to learn from, {len(eval_questions)} to evaluate on")
    with (
        connected(args, server_args, folder.path, adapter, checkpoint) as server,
        # Only now: until the server answers, nothing in the folder changes but its log.
        folder.open_journal(header, resume=args.resume) as journal,
    ):
        if strategy.sampling.temperature > 0:
            server.capabilities.check_seeds()
        describe_run(folder.path, words, args, server_args, sorted(adapter.tensors), command="evolve")
        population = Population(server, adapter, sampler, reward, config, strategy)
        command = serve_adapter_command(checkpoint, folder.path / "adapter", server_args)
        trainer = Trainer(
            adapter,
            optimizer,
            population,
            journal,
            folder,
            config,
            evaluate=partial(population.evaluate, eval_questions, eval_reward) if eval_questions else None,
            observers=[
                Progress(folder.path, quiet=args.quiet, numbers=reward_numbers, unit="generation"),
                TensorBoard(folder.path),
            ],
            save_best=lambda: adapter.save(folder.path / "best"),
            save_last=partial(save, folder.path, checkpoint, adapter, args.merge, command),
        )
        result = trainer.run()
    plot_rewards(folder.path)
    finish(folder.path, result, command, "reward.png")
    return result


def config_of(args: argparse.Namespace) -> TrainerConfig:
    """Return the loop's options. UserError for a population that is none."""
    each = 2 if args.estimator == "mirrored" else 1
    if args.population < 2 or args.population % each:
        even = "an even number" if each == 2 else "a number"
        raise UserError(f"--population must be {even} of 2 or more, not {args.population}")
    return TrainerConfig(
        steps=args.steps,
        learning_rate=args.learning_rate,
        eps=args.eps,
        num_pairs=args.population // each,
        seed=args.seed,
        distribution=args.distribution,
        schedule=args.schedule,
        warmup_steps=args.warmup_steps,
        eval_steps=args.eval_steps,
    )


def strategy_of(args: argparse.Namespace) -> Strategy:
    limits = {"max_new_tokens": 1, "concurrency": 1, "temperature": 0, "timeout": 0.001, "patience": 0}
    for name, least in limits.items():
        value = getattr(args, name)
        if not least <= value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} must be at least {least:g} and finite, not {value}")
    if not 0 < args.top_p <= 1:
        raise UserError(f"--top-p must be above 0 and at most 1, not {args.top_p}")
    if args.top_k != -1 and args.top_k < 1:
        raise UserError(f"--top-k must be 1 or more, or -1 for all, not {args.top_k}")
    sampling = Sampling(args.max_new_tokens, args.temperature, args.top_p, args.top_k, tuple(args.stop))
    return Strategy(args.estimator, args.shaping, sampling, args.concurrency, args.mean)


@contextmanager
def connected(
    args: argparse.Namespace, server_args: Sequence[str], folder: Path, adapter: Adapter, checkpoint: Path
) -> Iterator[Server]:
    """Yield a server that takes such adapters, and has none of this run. UserError if it does not."""
    config = adapter.config.to_dict()
    with ExitStack() as stack:
        url, shared = args.server, args.adapter_folder
        if args.launch_server:
            shared = shared or stack.enter_context(
                TemporaryDirectory(prefix="adapters-", dir=memory_folder())
            )
            report(f"launching SGLang; its log is {folder / 'server.log'} ...")
            words = launch_words(args, server_args, checkpoint, config["r"], target_names(adapter.tensors))
            url = stack.enter_context(LaunchedServer(words, folder / "server.log")).url
        server = stack.enter_context(
            Server(
                url,
                run=run_name(folder),
                api_key=args.api_key,
                admin_api_key=args.admin_api_key,
                timeout=args.timeout,
                retries=Retries(patience=args.patience),
                adapter_folder=Path(shared) if shared else None,
            )
        )
        server.capabilities.check_model(checkpoint)
        server.unload_leftovers()
        server.check_lora(adapter.tensors, config, slots(args))
        yield server


def launch_words(
    args: argparse.Namespace, server_args: Sequence[str], checkpoint: Path, rank: int, targets: set[str]
) -> list[str]:
    """Return SGLang's options for a server of this run: what it needs, then what the user says."""
    words = ["--model-path", str(checkpoint), *lora_words(rank, targets, slots(args)), *server_args]
    for name in ("api_key", "admin_api_key"):
        if getattr(args, name):
            words += [f"--{name.replace('_', '-')}", getattr(args, name)]
    return words


def memory_folder() -> str | None:
    """Return a folder in memory, or None for that of temporary files: a server on this host reads it there.

    Nothing is written as text, sent and read again, as tensors in a request are.
    """
    return MEMORY if os.access(MEMORY, os.W_OK) else None


def slots(args: argparse.Namespace) -> int:
    """Return how many adapters a server is best started for."""
    return min(SLOTS, args.population + args.mean)


def run_name(folder: Path) -> str:
    """Return a name that a run keeps when it is resumed, and that no other has on its server."""
    place = f"{socket.gethostname()}:{folder.resolve()}"
    return f"evolve.{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def save(folder: Path, checkpoint: Path, adapter: Adapter, merge: bool, command: str) -> dict[str, Any]:
    """Write OUT/adapter, and OUT/model if asked for. Return what the summary is to say of them."""
    adapter.save(folder / "adapter")
    if merge:
        write_merged(folder / "model", checkpoint, adapter)
    return {"output": str(folder / "adapter"), "serve": command}


if __name__ == "__main__":
    main()

"""Tune an adapter by evolution strategies: rewards on generated text, asked of a running SGLang server.

    python -m sglang_mezo_plugin.evolve --launch-server --model-path DIR --train-file T.jsonl \\
        --reward module:function --steps 100 --population 30 --output-dir OUT

Unusual: a population is seeds. The server holds some members' adapters at a time, made from the noise, sent
with a request and gone after it; nothing is restarted, and its other users are served meanwhile. A reward is
any Python function of (prompt, completion, record). The run folder, --resume and `export` are those of
training. With --server URL in place of --launch-server a server that runs already is asked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sglang_mezo_plugin.cli.connection import connected
from sglang_mezo_plugin.cli.groups.adapter import started_from
from sglang_mezo_plugin.cli.inputs import digest
from sglang_mezo_plugin.cli.loop import config_of, optimizer_of
from sglang_mezo_plugin.cli.models import make_adapter
from sglang_mezo_plugin.cli.options import EvolveOptions
from sglang_mezo_plugin.cli.parsing import read_options
from sglang_mezo_plugin.cli.runs import check_resumable, finish, open_folder, report
from sglang_mezo_plugin.errors import UserError, one_line_errors, quiet_libraries
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.checkpoint import find_checkpoint
from sglang_mezo_plugin.models.merge import write_merged
from sglang_mezo_plugin.patching.series import require_patched
from sglang_mezo_plugin.rewards.loading import load_reward
from sglang_mezo_plugin.runs.describe import describe_run, serve_adapter_command
from sglang_mezo_plugin.runs.header import make_header
from sglang_mezo_plugin.runs.observers.plots import plot_rewards
from sglang_mezo_plugin.runs.observers.progress import Progress, reward_numbers
from sglang_mezo_plugin.runs.observers.tensorboard import TensorBoard
from sglang_mezo_plugin.tasks.questions import read_questions
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.training.evolution import population_metrics
from sglang_mezo_plugin.training.members import Sampling
from sglang_mezo_plugin.training.population import Population, Strategy
from sglang_mezo_plugin.training.trainer import RunResult, Trainer

PICTURE = "reward.png"


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        evolve(sys.argv[1:] if argv is None else list(argv))


def evolve(words: Sequence[str]) -> RunResult:
    """Run what a command line asks for. Raises UserError for bad input."""
    options, server_args = read_options(EvolveOptions, __doc__, words)
    if server_args and not options.launch_server:
        raise UserError(f"{server_args[0]}: no option of this command; SGLang's go with --launch-server")
    config, optimizer, strategy = config_of(options), optimizer_of(options), strategy_of(options)
    folder = open_folder(options.output_dir, resume=options.resume, describe=population_metrics)
    if options.launch_server:
        require_patched()
    reward = load_reward(options.reward)
    eval_reward = load_reward(options.eval_reward) if options.eval_reward else reward
    questions = read_questions(options.train_file, options.max_train_examples, options.chat)
    eval_questions = (
        read_questions(options.eval_file, options.max_eval_examples, options.chat)
        if options.eval_file
        else []
    )
    options = replace(options, batch_size=options.batch_size or len(questions))
    sampler = Sampler(questions, options.batch_size, options.seed)
    checkpoint = find_checkpoint(options.model_path)
    adapter = make_adapter(options, checkpoint)
    data = {"train questions": digest(questions)}
    header = make_header(options.header(), checkpoint, started_from(options), data)
    check_resumable(folder, header, config)
    report(f"{len(questions)} prompts to learn from, {len(eval_questions)} to evaluate on")
    with (
        connected(options, server_args, folder.path, adapter, checkpoint) as server,
        # Only now: until the server answers, nothing in the folder changes but its log.
        folder.open_journal(header, resume=options.resume) as journal,
    ):
        if strategy.sampling.temperature > 0:
            server.capabilities.check_seeds()
        names = sorted(adapter.tensors)
        describe_run(folder.path, words, options.values(), server_args, names, "evolve", PICTURE)
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
                Progress(folder.path, quiet=options.quiet, numbers=reward_numbers, unit="generation"),
                TensorBoard(folder.path),
            ],
            save_best=lambda: adapter.save(folder.path / "best"),
            save_last=partial(save, folder.path, checkpoint, adapter, options.merge, command),
        )
        result = trainer.run()
    plot_rewards(folder.path)
    finish(folder.path, result, command, PICTURE)
    return result


def strategy_of(options: EvolveOptions) -> Strategy:
    sampling = Sampling(
        options.max_new_tokens, options.temperature, options.top_p, options.top_k, tuple(options.stop)
    )
    return Strategy(options.estimator, options.shaping, sampling, options.concurrency, options.mean)


def save(folder: Path, checkpoint: Path, adapter: Adapter, merge: bool, command: str) -> dict[str, Any]:
    """Write OUT/adapter, and OUT/model if asked for. Return what the summary is to say of them."""
    adapter.save(folder / "adapter")
    if merge:
        write_merged(folder / "model", checkpoint, adapter)
    return {"output": str(folder / "adapter"), "serve": command}


if __name__ == "__main__":
    main()

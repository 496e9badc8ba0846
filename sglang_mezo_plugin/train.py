"""Fine-tune a language model with forward passes alone: MeZO through SGLang's own ModelRunner.

    python -m sglang_mezo_plugin.train --model-path DIR --train-file T.jsonl --eval-file E.jsonl \\
        --mode lora --steps 1000 --batch-size 16 --output-dir OUT

Unusual: there is no backward pass and no optimizer state, weights do not move while they are probed, and
OUT/journal.jsonl alone, with the base model, rebuilds the weights of any step (`python -m
sglang_mezo_plugin.export`). A run that is killed goes on with --resume and ends with the same bits. SIGINT or
SIGTERM ends it after the step, its result saved; the exit code is 0.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from sglang_mezo_plugin.cli.groups.adapter import started_from
from sglang_mezo_plugin.cli.inputs import digest, read_data
from sglang_mezo_plugin.cli.loop import config_of, optimizer_of
from sglang_mezo_plugin.cli.models import check_trainable, dtype_of, make_adapter
from sglang_mezo_plugin.cli.options import TrainOptions
from sglang_mezo_plugin.cli.parsing import read_options
from sglang_mezo_plugin.cli.runs import check_resumable, finish, open_folder, report
from sglang_mezo_plugin.engine.ranks.leader import Ranks
from sglang_mezo_plugin.engine.ranks.worker import follow
from sglang_mezo_plugin.errors import one_line_errors, quiet_libraries
from sglang_mezo_plugin.models.checkpoint import find_checkpoint
from sglang_mezo_plugin.patching.series import require_patched
from sglang_mezo_plugin.runs.describe import describe_run, serve_command
from sglang_mezo_plugin.runs.header import make_header
from sglang_mezo_plugin.runs.observers.plots import plot_losses
from sglang_mezo_plugin.runs.observers.progress import Progress
from sglang_mezo_plugin.runs.observers.tensorboard import TensorBoard
from sglang_mezo_plugin.tasks.sampler import Sampler
from sglang_mezo_plugin.training.estimators import PairEstimator
from sglang_mezo_plugin.training.objectives import OBJECTIVES
from sglang_mezo_plugin.training.trainer import RunResult, Trainer

PICTURE = "loss.png"


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        train(sys.argv[1:] if argv is None else list(argv))


def train(words: Sequence[str]) -> RunResult:
    """Run a training from the words of its command line. Raises UserError for bad input."""
    options, server_args = read_options(TrainOptions, __doc__, words)
    ranks = Ranks(options.layout, follow)
    config, optimizer = config_of(options), optimizer_of(options)
    folder = open_folder(options.output_dir, resume=options.resume)
    require_patched()
    checkpoint = find_checkpoint(options.model_path)
    check_trainable(options.mode, checkpoint)
    dtype = dtype_of(options.dtype, checkpoint)
    examples, eval_examples, objective = read_data(options, checkpoint)
    sampler = Sampler(examples, options.batch_size, options.seed)
    adapter = make_adapter(options, checkpoint) if options.mode == "lora" else None
    identity = options.header(dtype=str(dtype).removeprefix("torch."), objective=objective)
    header = make_header(identity, checkpoint, started_from(options), {"train examples": digest(examples)})
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
            batch_size=options.batch_size,
            num_pairs=options.num_pairs,
            distribution=config.distribution,
            device=options.device,
            dtype=dtype,
            server_args=server_args,
            report=report,
            ranks=ranks,
            cuda_graph=options.cuda_graph,
        ) as session,
        # Only now: until the engine runs, nothing in the folder changes.
        folder.open_journal(header, resume=options.resume) as journal,
    ):
        carrier = session.carrier
        describe_run(folder.path, words, options.values(), server_args, carrier.names, "train", PICTURE)
        function = OBJECTIVES[objective]
        trained = folder.path / ("model" if adapter is None else "adapter")
        command = serve_command(options.values(), checkpoint, trained, dtype)

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
            observers=[Progress(folder.path, quiet=options.quiet), TensorBoard(folder.path)],
            save_best=(lambda: carrier.save(folder.path / "best")) if adapter is not None else None,
            save_last=save_last,
        )
        result = trainer.run()
    plot_losses(folder.path)
    finish(folder.path, result, command, PICTURE)
    return result


if __name__ == "__main__":
    main()

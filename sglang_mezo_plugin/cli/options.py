"""The options of the commands, in groups, and how what SGLang calls its own is left for SGLang."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.registry import TASKS
from sglang_mezo_plugin.training.evolution import SHAPINGS
from sglang_mezo_plugin.training.objectives import OBJECTIVES
from sglang_mezo_plugin.training.optimizers import NAMES as OPTIMIZERS

DTYPES = ("auto", "float32", "float16", "bfloat16")


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print the whole usage. Options are not to be abbreviated."""

    def __init__(self, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"python -m {sys.modules['__main__'].__spec__.name}" if _is_module() else None,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see --help")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "model", "and every option of SGLang's own server, by the name that it has there"
    )
    group.add_argument(
        "--model-path", required=True, help="folder of a Hugging Face checkpoint, or name on the hub"
    )
    group.add_argument("--tokenizer-path", help="folder or name of a tokenizer; default: the model's")
    group.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="of the weights; auto: the checkpoint's own (default)"
    )
    group.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    group.add_argument(
        "--context-length", type=int, help="longest prompt with its longest option; default: the model's"
    )
    add_rank_options(group)


def add_rank_options(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        *("--tp-size", "--tp", "--tensor-parallel-size"),
        type=int,
        default=1,
        metavar="N",
        help="GPUs that share the model's weights; default: 1",
    )
    group.add_argument(
        *("--dp-size", "--dp", "--data-parallel-size"),
        type=int,
        default=1,
        metavar="N",
        help="replicas of the model that share the scoring, on --tp-size GPUs each; default: 1",
    )


def add_data_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group(
        "data", "files of JSON lines, or data sets of the Hugging Face hub as name/config:split"
    )
    group.add_argument(
        "--task",
        default="records",
        choices=TASKS,
        help='records (default): lines {"prompt", "completion"} or {"prompt", "options", "label"}; '
        'sst2: lines {"text" or "sentence", "label"}',
    )
    group.add_argument("--prompt-template", metavar="TEXT", help='text around each prompt: "{} It was"')
    group.add_argument(
        "--truncate-prompts", action="store_true", help="drop the beginning of prompts that are too long"
    )
    group.add_argument(
        "--append-eos", action="store_true", help="end completions with the tokenizer's end of text"
    )
    group.add_argument(
        "--objective",
        choices=OBJECTIVES,
        help="completion: cross-entropy of the right text; classification: cross-entropy over the options' "
        "mean log-probabilities (default where there are options); accuracy: minus the share that is right",
    )
    return group


def add_lora_options(parser: argparse.ArgumentParser, title: str = "adapter (--mode lora)") -> None:
    group = parser.add_argument_group(title, "as in PEFT")
    group.add_argument("--lora-rank", type=int, default=8, help="default: 8")
    group.add_argument("--lora-alpha", type=float, default=16, help="default: 16")
    group.add_argument(
        "--lora-target-modules",
        nargs="+",
        metavar="NAME",
        help="names of modules, or all-linear; default: PEFT's choice for the model",
    )
    group.add_argument(
        "--lora-layers-to-transform", nargs="+", type=int, metavar="N", help="default: all layers"
    )
    group.add_argument("--lora-path", metavar="DIR", help="start from this PEFT adapter, geometry and all")


def add_method_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method", "MeZO, Malladi et al. 2023; defaults as in the paper")
    group.add_argument(
        "--mode", required=True, choices=("lora", "full"), help="train an adapter, or every weight"
    )
    group.add_argument("--learning-rate", type=float, help="default: 1e-4 (lora), 1e-6 (full)")
    group.add_argument("--eps", type=float, help="of the perturbation; default: 1e-2 (lora), 1e-3 (full)")
    group.add_argument("--num-pairs", type=int, default=1, help="directions a step; default: 1")
    group.add_argument("--projected-grad-clip", type=float, help="bound on the projected gradient")
    add_update_options(group)


def add_update_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--distribution", default="gaussian", choices=("gaussian", "rademacher"))
    group.add_argument("--optimizer", default="sgd", choices=OPTIMIZERS)
    group.add_argument("--momentum", type=float, default=0.9)
    group.add_argument("--adam-betas", type=float, nargs=2, default=(0.9, 0.999), metavar="B")
    group.add_argument("--adam-eps", type=float, default=1e-8)
    group.add_argument("--weight-decay", type=float, default=0.0)
    group.add_argument("--schedule", default="constant", choices=("constant", "linear", "cosine"))
    group.add_argument("--warmup-steps", type=int, default=0)


def add_run_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("run")
    group.add_argument("--output-dir", required=True)
    group.add_argument("--resume", action="store_true", help="go on with the run in --output-dir, if any")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument(
        "--eval-steps", type=int, default=0, help="evaluate every so many steps; 0: at the start and end only"
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    return group


def add_training_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--steps", type=int, default=20_000, help="default: 20000")
    group.add_argument("--batch-size", type=int, default=16, help="default: 16")
    group.add_argument(
        "--cuda-graph",
        action="store_true",
        help="score pairs by CUDA graphs: faster where batches or models are small. on a GPU, with "
        "--attention-backend triton",
    )


def add_server_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("server")
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument("--server", metavar="URL", help="of a running SGLang server")
    which.add_argument(
        "--launch-server",
        action="store_true",
        help="launch one, and end it; every option of SGLang's own server passes through to it",
    )
    group.add_argument("--api-key", help="of --server; default: SGLANG_API_KEY of the environment")
    group.add_argument("--admin-api-key", help="of --server, if it has one")
    group.add_argument("--concurrency", type=int, default=256, help="completions in flight; default: 256")
    group.add_argument("--timeout", type=float, default=600, help="seconds for a completion; default: 600")
    group.add_argument(
        "--patience", type=float, default=300, help="seconds to wait for a server that is down; default: 300"
    )
    group.add_argument(
        "--adapter-folder",
        metavar="DIR",
        help="pass adapters through this folder, which the server reads too: faster than with the requests; "
        "default with --launch-server: a folder in memory",
    )


def add_question_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "data", 'files of JSON lines {"prompt"} or {"messages"}, with what the reward needs besides'
    )
    group.add_argument("--train-file", required=True, metavar="FILE")
    group.add_argument("--eval-file", metavar="FILE", help="default: no evaluation")
    group.add_argument("--max-train-examples", type=int, metavar="N", help="use the first N; default: all")
    group.add_argument("--max-eval-examples", type=int, metavar="N", help="use the first N; default: all")
    group.add_argument(
        "--reward", required=True, metavar="MODULE:FUNCTION", help="(prompt, completion, record)"
    )
    group.add_argument(
        "--eval-reward", metavar="MODULE:FUNCTION", help="of the evaluations; default: --reward"
    )
    group.add_argument("--chat", action="store_true", help="a prompt is a user's message in a chat")
    group.add_argument("--max-new-tokens", type=int, default=256, help="default: 256")
    group.add_argument("--temperature", type=float, default=0.0, help="default: 0, greedy")
    group.add_argument("--top-p", type=float, default=1.0)
    group.add_argument("--top-k", type=int, default=-1)
    group.add_argument("--stop", nargs="+", default=(), metavar="TEXT", help="ends a completion")


def add_population_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("method", "evolution strategies; defaults as in Qiu et al. 2025")
    group.add_argument("--population", type=int, default=30, help="members of a generation; default: 30")
    group.add_argument(
        *("--sigma", "--eps"), dest="eps", type=float, default=1e-3, help="of the perturbation; default: 1e-3"
    )
    group.add_argument("--learning-rate", type=float, default=5e-4, help="alpha; default: 5e-4")
    group.add_argument(
        "--estimator",
        choices=("mirrored", "one-sided"),
        default="mirrored",
        help="theta + sigma z and theta - sigma z (default), or theta + sigma z alone, as in the paper",
    )
    group.add_argument(
        "--shaping", choices=SHAPINGS, default="z-score", help="of rewards; default: z-score over the members"
    )
    group.add_argument("--mean", action="store_true", help="ask theta itself too in each generation")
    group.add_argument("--merge", action="store_true", help="write OUT/model too: the base with theta merged")
    add_update_options(group)


def parse(parser: Parser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the words that are none of ours: SGLang's, to be read by SGLang's parser."""
    args, rest = parser.parse_known_args(argv)
    if rest and not rest[0].startswith("--"):
        parser.error(f"unrecognised argument {rest[0]!r}")
    return args, rest


def _is_module() -> bool:
    return getattr(sys.modules["__main__"], "__spec__", None) is not None

"""The options of the commands, in groups, and how what SGLang calls its own is left for SGLang."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.losses import OBJECTIVES
from sglang_mezo_plugin.optimizers import NAMES as OPTIMIZERS
from sglang_mezo_plugin.tasks.registry import TASKS

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


def add_lora_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("adapter (--mode lora)", "as in PEFT")
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
    group.add_argument("--distribution", default="gaussian", choices=("gaussian", "rademacher"))
    group.add_argument("--optimizer", default="sgd", choices=OPTIMIZERS)
    group.add_argument("--momentum", type=float, default=0.9)
    group.add_argument("--adam-betas", type=float, nargs=2, default=(0.9, 0.999), metavar="B")
    group.add_argument("--adam-eps", type=float, default=1e-8)
    group.add_argument("--weight-decay", type=float, default=0.0)
    group.add_argument("--projected-grad-clip", type=float, help="bound on the projected gradient")
    group.add_argument("--schedule", default="constant", choices=("constant", "linear", "cosine"))
    group.add_argument("--warmup-steps", type=int, default=0)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--output-dir", required=True)
    group.add_argument("--resume", action="store_true", help="go on with the run in --output-dir, if any")
    group.add_argument("--steps", type=int, default=20_000, help="default: 20000")
    group.add_argument("--batch-size", type=int, default=16, help="default: 16")
    group.add_argument("--seed", type=int, default=0)
    group.add_argument(
        "--eval-steps", type=int, default=0, help="evaluate every so many steps; 0: at the start and end only"
    )
    group.add_argument("--quiet", action="store_true", help="no progress bar")
    group.add_argument(
        "--cuda-graph",
        action="store_true",
        help="score pairs by CUDA graphs: faster where batches or models are small. on a GPU, with "
        "--attention-backend triton",
    )


def parse(parser: Parser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the words that are none of ours: SGLang's, to be read by SGLang's parser."""
    args, rest = parser.parse_known_args(argv)
    if rest and not rest[0].startswith("--"):
        parser.error(f"unrecognised argument {rest[0]!r}")
    return args, rest


def _is_module() -> bool:
    return getattr(sys.modules["__main__"], "__spec__", None) is not None

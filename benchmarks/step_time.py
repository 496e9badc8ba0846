"""Time a training step: ours next to plain MeZO on transformers, next to the least that the machine needs.

    python benchmarks/step_time.py --models opt-13b --lengths 32 256 --attention-backend triton
    python benchmarks/step_time.py --models tiny --device cpu --dtype float32 --lengths 8   # a CPU, a minute

Unusual: no checkpoint is needed (weights and token ids are random, sizes are the published ones), a step of
ours is timed as a user gets it, journal and all, and each row has a floor: the arithmetic, or the bytes, of a
step over the rates that this very device reached just before. `forward` is a training step without adapter,
noise and update: what lies between it and `lora` or `full` is the price of training. `baseline-fused` is the
baseline with our noise: what lies between it and `full` is the engine. Options that are none of these go to
SGLang.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import groupby, product
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from floors import measure_rates
from machine import device_name, provenance
from models import CONFIGS, Model, check_lengths
from report import Table, number, write_json
from step_cases import BASELINES, CARRIERS, Case, Result, Settings, measure_cases

from sglang_mezo_plugin.cli.groups.model import Devices
from sglang_mezo_plugin.cli.parsing import Parser, parse
from sglang_mezo_plugin.errors import UserError, one_line_errors, quiet_libraries
from sglang_mezo_plugin.patching.series import require_patched

COLUMNS = {"model": -12, "L": 5, "case": -36, "tokens": 8, "ms": 13, "floor ms": 9, "x baseline": 10}
NOISES = ("gaussian", "rademacher")


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        run(sys.argv[1:] if argv is None else list(argv))


def make_parser() -> Parser:
    parser = Parser(*__doc__.split("\n\n", 1))
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=["opt-1.3b", "opt-13b"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[32, 256], metavar="L", help="mean tokens")
    parser.add_argument("--carriers", nargs="+", choices=CARRIERS, default=list(CARRIERS))
    parser.add_argument(
        "--noise",
        nargs="+",
        choices=NOISES,
        default=["gaussian"],
        help="of full; lora and the baselines are gaussian, lora also rademacher if both are named",
    )
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--lora-target-modules", nargs="+", default=["q_proj", "v_proj"], metavar="NAME")
    parser.add_argument("--batch-size", type=int, default=16, help="sequences")
    parser.add_argument("--steps", type=int, default=20, help="timed; the median counts")
    parser.add_argument("--baseline-steps", type=int, default=20, help="--steps of the baselines")
    parser.add_argument("--warmup", type=int, default=10, help="steps before those that are timed")
    parser.add_argument("--cuda-graph", action="store_true", help="of lora and full")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_options(Devices)  # of ours; the baselines take one GPU
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="append the kernels of each case")
    return parser


def run(words: Sequence[str]) -> None:
    """Measure and print what a command line asks for. Raises UserError for bad input."""
    args, server_args = parse(make_parser(), words)
    check(args)
    settings = settings_of(args, server_args)
    report = {**provenance(__file__, words), "rates": None, "cases": []}
    write_json(args.json, report)
    rates = measure_rates(settings.device, settings.dtype)
    report["rates"] = asdict(rates)
    print(
        f"{device_name(settings.device)}: {rates.flops / 1e12:.1f} TFLOP/s in {args.dtype}, "
        f"{rates.bytes / 1e12:.3f} TB/s copied"
    )
    results: list[Result] = []
    table = Table(COLUMNS)
    table.print_header()
    with TemporaryDirectory() as folder:
        for (name, *_), group in groupby(cases_of(args), lambda case: (case.model, case.carrier, case.noise)):
            model = Model.write(name, Path(folder))
            for result in measure_cases(model, list(group), settings, rates):
                results.append(result)
                table.add(*cells(result, results, args))
                report["cases"] = [as_json(result, results, args) for result in results]
                write_json(args.json, report)
                append_kernels(args.profile, result, args)
    print("\nagain, by model and length:\n")
    table = Table(COLUMNS)
    table.print_header()
    for result in sorted(results, key=lambda r: (args.models.index(r.case.model), r.case.length)):
        table.add(*cells(result, results, args))


def check(args: argparse.Namespace) -> None:
    """Raise UserError for options that cannot be, before anything is measured."""
    for option in ("batch_size", "steps", "baseline_steps", "warmup", "tp_size", "dp_size", "lora_rank"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {getattr(args, option)}")
    if args.baseline_steps > args.steps:
        raise UserError(f"--baseline-steps {args.baseline_steps} is more than --steps {args.steps}: lower it")
    for name in args.models:
        check_lengths(name, args.lengths)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU: pass --device cpu")
    if set(args.carriers) - set(BASELINES):
        require_patched()
        # Here, where no model is in memory: an exception that one of SGLang's imports keeps would keep the
        # frames below it for good, and all that they refer to.
        importlib.import_module("engine_steps")


def settings_of(args: argparse.Namespace, server_args: Sequence[str]) -> Settings:
    return Settings(
        device=args.device or ("cuda" if torch.cuda.is_available() else "cpu"),
        dtype=getattr(torch, args.dtype),
        batch_size=args.batch_size,
        steps=args.steps,
        baseline_steps=args.baseline_steps,
        warmup=args.warmup,
        tp_size=args.tp_size,
        dp_size=args.dp_size,
        lora_rank=args.lora_rank,
        lora_target_modules=tuple(args.lora_target_modules),
        server_args=tuple(server_args),
        profiles=args.profile is not None,
        cuda_graph=args.cuda_graph,
    )


def cases_of(args: argparse.Namespace) -> Iterator[Case]:
    """Yield all cases, those of a model, carrier and noise one after the other."""
    for model, carrier in product(args.models, args.carriers):
        noises = ["gaussian"]
        if carrier == "full" or (carrier == "lora" and set(args.noise) == set(NOISES)):
            noises = args.noise
        for noise, length in product(noises, args.lengths):
            yield Case(model, length, carrier, noise)


def label(case: Case, args: argparse.Namespace) -> str:
    """Return what the table calls a case."""
    words = [case.carrier]
    if case.carrier == "lora":
        words += [f"r{args.lora_rank}", ",".join(args.lora_target_modules)]
    if case.carrier in ("lora", "full") and args.cuda_graph:
        words.append("graph")
    if case.carrier not in BASELINES:
        words += [f"{name} {size}" for name, size in (("TP", args.tp_size), ("DP", args.dp_size)) if size > 1]
    return " ".join([*words, case.noise] if case.noise != "gaussian" else words)


def times_baseline(result: Result, results: Sequence[Result]) -> float | None:
    """Return how many times faster a case is than the baseline, None without one to compare with."""
    case = result.case
    for other in results:
        if (other.case.model, other.case.length, other.case.carrier) == (case.model, case.length, "baseline"):
            return other.ms / result.ms if other.ms and result.ms else None
    return None


def cells(result: Result, results: Sequence[Result], args: argparse.Namespace) -> list[str]:
    """Return a row of the table."""
    case = result.case
    return [
        case.model,
        str(case.length),
        label(case, args),
        number(result.tokens, 0),
        number(result.ms, 2) if result.ms else result.status,
        number(result.floor_ms, 2),
        number(times_baseline(result, results), 2),
    ]


def as_json(result: Result, results: Sequence[Result], args: argparse.Namespace) -> dict[str, object]:
    row = asdict(result)
    case, _ = row.pop("case"), row.pop("kernels")
    return {**case, "label": label(result.case, args), **row, "x_baseline": times_baseline(result, results)}


def append_kernels(file: Path | None, result: Result, args: argparse.Namespace) -> None:
    if file is not None and result.kernels is not None:
        case = result.case
        with file.open("a") as lines:
            lines.write(f"{case.model}, L = {case.length}, {label(case, args)}\n{result.kernels}\n\n")


if __name__ == "__main__":
    main()

"""Peak memory of a training step: what it takes beside the weights, each case in a process of its own.

    python benchmarks/memory.py --model opt-13b --attention-backend triton
    python benchmarks/memory.py --model tiny --device cpu --dtype float32 --length 8    # weights and pools

Unusual: there are two peaks. `tensors` is what torch's allocator handed out at the most; `device` is what the
GPU then had in use, as nvidia-smi sees it: CUDA's context, libraries' workspaces and the allocator's reserve
count too, and so do other processes. Weights are random, no checkpoint is needed; options that are none of
these go to SGLang.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from machine import device_name, provenance
from memory_use import GIB, PeakUsed, allocated_gib, forget_peak, is_out_of_memory
from models import CONFIGS, Model, check_lengths, random_examples
from report import Table, number, write_json
from timing import step_ms

from sglang_mezo_plugin.cli.parsing import Parser, parse
from sglang_mezo_plugin.errors import UserError, one_line_errors, quiet_libraries
from sglang_mezo_plugin.patching.series import require_patched
from sglang_mezo_plugin.tasks.sampler import Sampler

COLUMNS = {"model": -12, "carrier": -8, "weights": 8, "KV pool": 8, "tensors": 8, "device": 8, "ms": 13}
WARMUP = 2


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        run(sys.argv[1:] if argv is None else list(argv))


def make_parser() -> Parser:
    parser = Parser(*__doc__.split("\n\n", 1))
    parser.add_argument("--model", required=True, choices=CONFIGS)
    parser.add_argument("--carrier", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--length", type=int, default=256, metavar="L", help="mean tokens of a sequence")
    parser.add_argument("--batch-size", type=int, default=16, help="sequences")
    parser.add_argument("--steps", type=int, default=10, help="measured, after two others")
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--lora-target-modules", nargs="+", default=["q_proj", "v_proj"], metavar="NAME")
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers")
    return parser


def run(words: Sequence[str]) -> None:
    """Measure and print what a command line asks for. Raises UserError for bad input."""
    args, server_args = parse(make_parser(), words)
    for option in ("batch_size", "steps", "lora_rank"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {getattr(args, option)}")
    check_lengths(args.model, [args.length])
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU: pass --device cpu")
    require_patched()
    report: dict[str, Any] = {**provenance(__file__, words), "cases": []}
    write_json(args.json, report)
    print(f"{device_name(args.device)}: GiB, L = {args.length}, {args.batch_size} sequences of {args.dtype}")
    table = Table(COLUMNS)
    table.print_header()
    for carrier in args.carrier:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=spawn) as process:
            case = process.submit(measure, args, server_args, carrier).result()
        report["cases"].append(case)
        ms = number(case["ms"], 2) if case["ms"] else case["status"]
        sizes = (case[name] for name in ("weights_gib", "kv_pool_gib", "tensors_gib", "device_gib"))
        table.add(args.model, carrier, *(number(size, 2) for size in sizes), ms)
        write_json(args.json, report)


def measure(args: argparse.Namespace, server_args: Sequence[str], carrier: str) -> dict[str, Any]:
    """Return a case of the report, with None for what its status says it could not reach."""
    with quiet_libraries():
        from engine_steps import EngineOptions, engine_run, open_engine  # in the case's own process alone

    dtype = getattr(torch, args.dtype)
    options = EngineOptions(
        args.device,
        dtype,
        args.batch_size,
        args.lora_rank,
        tuple(args.lora_target_modules),
        tuple(server_args),
    )
    case = dict.fromkeys(("weights_gib", "kv_pool_gib", "tensors_gib", "device_gib", "ms", "pools"))
    case |= {"model": args.model, "carrier": carrier, "status": "ok"}
    with quiet_libraries(), TemporaryDirectory() as folder:
        model = Model.write(args.model, Path(folder))
        case["weights_gib"] = model.parameters * dtype.itemsize / GIB
        examples = random_examples(model, args.length, args.batch_size * (WARMUP + args.steps))
        try:
            with open_engine(model, carrier, examples, options) as session:
                case["pools"] = session.pools
                case["kv_pool_gib"] = (
                    session.pools["max_total_tokens"] * model.kv_elements * dtype.itemsize / GIB
                )
                one = engine_run(session.carrier, Sampler(examples, args.batch_size, seed=0))
                forget_peak(args.device)
                times, _ = step_ms(one, args.steps, WARMUP, args.device)
                # Watching costs time: in steps of their own.
                with PeakUsed(args.device) as used:
                    step_ms(one, args.steps, WARMUP, args.device)
        except (UserError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return {**case, "status": "out of memory"}
    return {
        **case,
        "ms": median(times),
        "step_ms": times,
        "tensors_gib": allocated_gib(args.device),
        "device_gib": used.gib,
    }


if __name__ == "__main__":
    main()

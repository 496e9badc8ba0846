"""Tokens a second of a population on a server: its members' adapters, against the bare base model.

    python benchmarks/adapters.py --model llama-7b --attention-backend triton --sampling-backend pytorch
    python benchmarks/adapters.py --model tiny-llama --device cpu --dtype float32 --members 4 --tokens 8

Unusual: the server is a real one, launched here with random weights, and is asked over HTTP as `evolve` asks
it. Every member is asked the same prompts, greedily, and each completion has the same number of tokens; the
base model gets just these requests without the adapters' names. Prefixes are not cached: equal prompts would
be read once for the base, but once for each member. `generation` is what `evolve` sees: adapters are made,
sent, asked and unloaded, each when it is its turn. Options that are none of these go to SGLang.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, gettempdir
from time import perf_counter
from typing import Any

import numpy as np
import torch
from machine import device_name, provenance
from models import CONFIGS, FIRST_TOKEN, SEED, Model
from report import Table, number, write_json
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from sglang_mezo_plugin.cli.parsing import Parser, parse
from sglang_mezo_plugin.client import Completion, Job, Member, Retries, Sampling, Server
from sglang_mezo_plugin.client.completions import complete
from sglang_mezo_plugin.client.launch import LaunchedServer, cpu_words, lora_words
from sglang_mezo_plugin.client.transport import Transport
from sglang_mezo_plugin.errors import UserError, one_line_errors, quiet_libraries
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.peft_files import target_names
from sglang_mezo_plugin.patching.series import require_patched
from sglang_mezo_plugin.training.population import tensors_at

COLUMNS = {"model": -14, "case": -12, "members": 8, "requests": 9, "tokens": 9, "s": 9}
COLUMNS |= {"tokens/s": 10, "x base": 8}
SIGMA = 1e-2


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        run(sys.argv[1:] if argv is None else list(argv))


def make_parser() -> Parser:
    parser = Parser(*__doc__.split("\n\n", 1))
    parser.add_argument("--model", required=True, choices=CONFIGS)
    parser.add_argument("--members", type=int, default=32, help="adapters in one batch; default: 32")
    parser.add_argument("--prompts", type=int, default=8, help="of each member; default: 8")
    parser.add_argument("--length", type=int, default=64, metavar="L", help="tokens of a prompt; default: 64")
    parser.add_argument("--tokens", type=int, default=256, help="of a completion; default: 256")
    parser.add_argument("--repeats", type=int, default=5, help="of each case, after one; the median counts")
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--lora-target-modules", nargs="+", default=["q_proj", "v_proj"], metavar="NAME")
    parser.add_argument(
        "--adapter-folder",
        type=Path,
        metavar="DIR",
        help="pass adapters through it; weights are then written",
    )
    parser.add_argument("--dtype", choices=("float32", "float16", "bfloat16"), default="float16")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers")
    log = Path(gettempdir()) / "adapters-server.log"
    parser.add_argument(
        "--log", type=Path, default=log, metavar="FILE", help=f"of the server; default: {log}"
    )
    return parser


def run(words: Sequence[str]) -> None:
    """Measure and print what a command line asks for. Raises UserError for bad input."""
    args, server_args = parse(make_parser(), words)
    for option in ("members", "prompts", "length", "tokens", "repeats", "lora_rank"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option.replace('_', '-')} must be at least 1, not {getattr(args, option)}")
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    require_patched()
    report: dict[str, Any] = {**provenance(__file__, words), "cases": []}
    write_json(args.json, report)
    with TemporaryDirectory() as folder, serving(args, server_args, Path(folder)) as (server, adapter):
        print(f"{device_name(args.device)}: {args.dtype}, rank {args.lora_rank}, {args.members} members")
        table = Table(COLUMNS)
        table.print_header()
        base: float | None = None
        for case in measure(args, server, adapter):
            base = base or case["tokens_per_second"]
            case["x_base"] = case["tokens_per_second"] / base
            report["cases"].append(case)
            sizes = (number(case[name], 0) for name in ("members", "requests", "tokens"))
            rates = (number(case["seconds"], 3), number(case["tokens_per_second"], 0))
            table.add(args.model, case["case"], *sizes, *rates, number(case["x_base"], 3))
            write_json(args.json, report)


@contextmanager
def serving(
    args: argparse.Namespace, server_args: Sequence[str], folder: Path
) -> Iterator[tuple[Server, Adapter]]:
    """Launch a server of random weights; yield it, and the adapter whose population it is to evaluate."""
    model = write_model(args.model, folder, getattr(torch, args.dtype) if args.adapter_folder else None)
    # With dummy weights SGLang reads no adapters from files either.
    weights = [] if args.adapter_folder else ["--load-format", "dummy"]
    adapter = Adapter.fresh(model.folder, SEED, args.lora_rank, 16, args.lora_target_modules)
    requests = args.members * args.prompts
    words = ["--model-path", str(model.folder), *weights, "--dtype", args.dtype]
    words += ["--disable-radix-cache", "--max-running-requests", str(requests)]
    words += lora_words(args.lora_rank, target_names(adapter.tensors), args.members)
    words += cpu_words(requests * (args.length + args.tokens + 1)) if args.device == "cpu" else []
    with (
        LaunchedServer([*words, *server_args], args.log) as launched,
        Server(launched.url, run="benchmark", adapter_folder=args.adapter_folder) as server,
    ):
        yield server, adapter


def write_model(name: str, folder: Path, dtype: torch.dtype | None) -> Model:
    """Write a model that never ends a completion, with a tokenizer that has a word for each token.

    dtype: of its weights; None to write none.
    """
    model = Model.write(name, folder)
    if dtype is not None:
        AutoModelForCausalLM.from_config(model.config, dtype=dtype).save_pretrained(model.folder)
        (model.folder / "generation_config.json").unlink()
    config = json.loads((model.folder / "config.json").read_text())
    (model.folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    vocabulary = {f"t{token}": token for token in range(model.config.vocab_size)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="t0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(model.folder)
    return model


def measure(args: argparse.Namespace, server: Server, adapter: Adapter) -> Iterator[dict[str, Any]]:
    """Yield the cases, the base model's first."""
    random = np.random.default_rng(SEED)
    high = CONFIGS[args.model].vocab_size
    prompts = random.integers(FIRST_TOKEN, high, size=(args.prompts, args.length)).tolist()
    jobs = [Job(prompt, Sampling(args.tokens)) for prompt in prompts]
    config = adapter.config.to_dict()
    tensors = [partial(tensors_at, adapter, seed, SIGMA) for seed in range(args.members)]
    members = [Member(make, config, jobs) for make in tensors]
    requests = args.members * args.prompts
    names = [server.load(make(), config) for make in tensors]
    cases: dict[str, Callable[[], object]] = {
        "base": lambda: completions(server, jobs * args.members),
        "adapters": lambda: completions(server, [replace(j, adapter=n) for n in names for j in jobs]),
    }
    times = timed(cases, args.repeats)
    for name in names:
        server.unload(name)
    generation = {"generation": lambda: [*chain(*server.evaluate_members(members, requests))]}
    times |= timed(generation, args.repeats)
    tokens = requests * args.tokens
    for case, seconds in times.items():
        yield {
            "model": args.model,
            "case": case,
            "members": 0 if case == "base" else args.members,
            "requests": requests,
            "tokens": tokens,
            "seconds": median(seconds),
            "all_seconds": seconds,
            "tokens_per_second": tokens / median(seconds),
        }


def completions(server: Server, jobs: Sequence[Job]) -> list[Completion]:
    """Ask for all of them at once, each of the base model or of an adapter that is loaded."""

    async def asked() -> list[Completion]:
        capabilities = server.capabilities
        transport = Transport(capabilities.url, None, None, timeout=600.0, retries=Retries())
        await transport.open()
        try:
            return await asyncio.gather(*(complete(transport, capabilities.model, job) for job in jobs))
        finally:
            await transport.close()

    return asyncio.run(asked())


def timed(cases: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each case, which take turns, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(1 + repeats):
        for name, ask in cases.items():
            start = perf_counter()
            outcomes = ask()
            times[name].append(perf_counter() - start)
            check_complete(outcomes)
    return {name: seconds[1:] for name, seconds in times.items()}


def check_complete(outcomes: Sequence[Any]) -> None:
    for outcome in outcomes:
        if not isinstance(outcome, Completion):
            raise outcome
        if outcome.finish_reason != "length":
            raise UserError(f"a completion ended with {outcome.finish_reason}: its tokens are not as many")


if __name__ == "__main__":
    main()

"""Time the noise: how fast weights are perturbed and moved, next to torch.normal and to a copy of them.

    python benchmarks/noise.py --elements 2**28                          # on a GPU
    python benchmarks/noise.py --device cpu --elements 2**22 --dtypes float32

Unusual: z is never read from memory, it is computed where it is used, so the number that counts is how near a
pass over the weights comes to a copy of them. Bytes are those that each operation must read and write.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from machine import device_name, provenance
from report import Table, number, write_json
from timing import median_ms

from sglang_mezo_plugin.cli.parsing import Parser
from sglang_mezo_plugin.errors import UserError, one_line_errors, quiet_libraries
from sglang_mezo_plugin.noise import (
    PairPlan,
    Region,
    StepNumbers,
)

COLUMNS = {"dtype": -9, "operation": -30, "ms": 10, "GB/s": 9, "normals/s": 10, "x copy": 7}
COLS = 4096  # of the weight: a usual number of inputs
DTYPES = ("float32", "float16", "bfloat16")
MOVES = [(1, 1e-6)]

# What is timed, how many times it reads or writes an element, and whether it makes a number for each.
Operation = tuple[str, Callable[[], object], int, bool]


def main(argv: Sequence[str] | None = None) -> None:
    with one_line_errors(), quiet_libraries():
        run(sys.argv[1:] if argv is None else list(argv))


def make_parser() -> Parser:
    parser = Parser(*__doc__.split("\n\n", 1))
    parser.add_argument("--elements", help="such as 2**28; default: that on a GPU, 2**22 on a CPU")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float16", "bfloat16"])
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="all numbers")
    return parser


def run(words: Sequence[str]) -> None:
    """Measure and print what a command line asks for. Raises UserError for bad input."""
    args = make_parser().parse_args(words)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU: pass --device cpu")
    elements = count(args.elements or ("2**28" if device == "cuda" else "2**22"))
    report = {**provenance(__file__, words), "elements": elements, "cases": []}
    write_json(args.json, report)
    print(f"{device_name(device)}: {elements:,} elements")
    table = Table(COLUMNS)
    table.print_header()
    for dtype in args.dtypes:
        copy_ms = 0.0
        for name, call, passes, makes_noise in operations(elements, getattr(torch, dtype), device):
            ms = median_ms(call, device)
            copy_ms = copy_ms or ms  # the first one
            case = {
                "dtype": dtype,
                "operation": name,
                "ms": ms,
                "bytes_per_second": passes * elements * getattr(torch, dtype).itemsize / ms * 1e3,
                "normals_per_second": elements / ms * 1e3 if makes_noise else None,
                "x_copy": ms / copy_ms,
            }
            report["cases"].append(case)
            noise = case["normals_per_second"]
            table.add(
                dtype,
                name,
                number(ms, 3),
                number(case["bytes_per_second"] / 1e9, 1),
                "-" if noise is None else f"{noise:.2e}",
                number(case["x_copy"], 2),
            )
            write_json(args.json, report)


def operations(elements: int, dtype: torch.dtype, device: str) -> Iterator[Operation]:
    """Yield what is timed, a copy first; all of it on tensors of [elements / 4096, 4096]."""
    weight = torch.randn(elements // COLS, COLS, device=device).to(dtype)
    out, minus = torch.empty_like(weight), torch.empty_like(weight)
    region = Region.whole("weight", weight.shape)
    yield "copy", lambda: out.copy_(weight), 2, False
    yield "torch.normal", lambda: torch.normal(0.0, 1.0, weight.shape, out=out), 1, True
    numbers = StepNumbers(device)
    numbers.set(1, 1e-3, MOVES, rounding_seed=1)
    for name in ("gaussian", "rademacher"):
        plan = PairPlan([(out, minus, weight, region)], name)
        yield f"write {name}", partial(plan.write, numbers), 3, True
        yield f"accumulate_ {name}", partial(plan.accumulate_, numbers), 2, True
        yield f"move_and_write {name}", partial(plan.move_and_write, numbers), 4, True


def count(text: str) -> int:
    """Return the number that a text like 2**28 or 4096 stands for. UserError unless it fills whole rows."""
    base, _, power = text.partition("**")
    try:
        elements = int(base) ** int(power or 1)
    except ValueError:
        raise UserError(f"--elements {text}: pass a number such as 2**28") from None
    if elements < COLS or elements % COLS:
        raise UserError(f"--elements {text}: pass a multiple of {COLS}")
    return elements


if __name__ == "__main__":
    main()

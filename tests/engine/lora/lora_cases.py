"""Products of small integers: exact in fp32 in any order, so that rounding to the dtype alone is left.

python lora_cases.py FILE, in a process with TRITON_INTERPRET=1: write what the kernels give to FILE.
"""

import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from sglang_mezo_plugin.engine.lora.kernels import AdaptedColumns, add_lora_

SCALING = 2.5
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
INTERPRETED = DTYPES[:2]  # Triton's interpreter multiplies bf16 as if its bits were integers


class Case(NamedTuple):
    """A layer: `bounds` has its parts' first columns and the end, `adapted` the parts that LoRA changes."""

    copies: int
    rows: int
    depth: int
    rank: int
    bounds: tuple[int, ...]
    adapted: tuple[int, ...]
    room: int = 0  # columns of B, and rows of A, beyond the adapter's own


CASES = (
    Case(2, 37, 63, 1, (0, 50), (0,)),
    Case(2, 1, 64, 2, (0, 16, 48), (0, 1)),
    Case(1, 33, 1100, 8, (0, 300, 557), (1,), room=3),  # four ranges of the sum; a part of two tiles
    Case(4, 40, 520, 8, (0, 48, 64, 80), (0, 2), room=8),  # as q and v; two ranges
    Case(2, 65, 96, 20, (0, 257, 300, 301), (0, 1, 2)),
    Case(3, 7, 40, 64, (0, 32, 64, 96), (0, 1, 2)),  # more rows of A than a program takes
    Case(2, 2050, 24, 2, (0, 40), (0,)),  # large tiles
)


def tensors(case: Case, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Return out, x, A and B. What must not be read is NaN, also behind the rows of x."""
    draw = torch.Generator().manual_seed(case.depth)

    def integers(*shape: int, largest: int) -> torch.Tensor:
        return torch.randint(-largest, largest + 1, shape, generator=draw).to(dtype)

    all_rows, parts = case.copies * case.rows, len(case.bounds) - 1
    out = integers(all_rows, case.bounds[-1], largest=9)
    x = torch.full((all_rows, case.depth + 8), torch.nan, dtype=dtype)
    x[:, : case.depth] = integers(all_rows, case.depth, largest=7)
    a = torch.full((case.copies, parts * case.rank + case.room, case.depth), torch.nan, dtype=dtype)
    b = torch.full((case.copies, case.bounds[-1], case.rank + case.room), torch.nan, dtype=dtype)
    for part in case.adapted:
        rows, columns = slice(part * case.rank, (part + 1) * case.rank), slice(*case.bounds[part : part + 2])
        a[:, rows] = integers(case.copies, case.rank, case.depth, largest=9)
        b[:, columns, : case.rank] = integers(*b[:, columns, : case.rank].shape, largest=3)
    return out, x, a, b


def expected(case: Case, dtype: torch.dtype) -> torch.Tensor:
    """Return out, by fp64 and by the rounding that `add_lora_` promises."""
    out, x, a, b = (tensor.double() for tensor in tensors(case, dtype))
    x = x[:, : case.depth]
    for copy in range(case.copies):
        rows = slice(copy * case.rows, (copy + 1) * case.rows)
        for part in case.adapted:
            low = (x[rows] @ a[copy, part * case.rank : (part + 1) * case.rank].T).to(dtype).double()
            columns = slice(*case.bounds[part : part + 2])
            out[rows, columns] += SCALING * low @ b[copy, columns, : case.rank].T
    return out.to(dtype)


def run(add: Callable[..., None], device: str, dtypes: Sequence[torch.dtype]) -> dict[str, torch.Tensor]:
    """Return out of each case, by `add_lora_` or what does the same."""
    results = {}
    for case in CASES:
        parts = [(*case.bounds[part : part + 2], part * case.rank) for part in case.adapted]
        columns = AdaptedColumns(parts, case.rank, torch.device(device))
        for dtype in dtypes:
            out, x, a, b = (tensor.to(device) for tensor in tensors(case, dtype))
            add(out, x[:, : case.depth], a, b, columns, SCALING)
            results[f"{case} {dtype}"] = out.cpu()
    return results


def wrong(results: dict[str, torch.Tensor], dtypes: Sequence[torch.dtype]) -> list[str]:
    """Return which cases are not what exact arithmetic gives. ValueError if there are not all of them."""
    exact = [expected(case, dtype) for case in CASES for dtype in dtypes]
    pairs = zip(results.items(), exact, strict=True)
    return [name for (name, result), wanted in pairs if not torch.equal(result, wanted)]


if __name__ == "__main__":
    torch.save(run(add_lora_, "cpu", INTERPRETED), sys.argv[1])

"""Print the tables of this folder's README from results/*.json, and say if the README has others.

    python benchmarks/tables.py

Unusual: it measures nothing. Figures are typed by nobody: what stands in the README between
`<!-- results -->` lines must be what this prints, and a test holds it to that.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from report import number

HERE = Path(__file__).parent
MARK = "<!-- results -->"


def main() -> None:
    tables = "\n".join(lines(HERE / "results"))
    print(tables)
    if tables.strip() != in_readme().strip():
        print("error: benchmarks/README.md has other tables: put these in their place", file=sys.stderr)
        sys.exit(1)


def in_readme() -> str:
    """Return what the README says between its marks."""
    return (HERE / "README.md").read_text().split(MARK)[1]


def lines(folder: Path) -> Iterator[str]:
    """Yield the tables of all results, steps first."""
    reports = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    steps = {name: report for name, report in reports.items() if _script(report) == "step_time"}
    yield "### Steps"
    yield ""
    yield from table(("model", "L", "case", "tokens", "ms", "floor, ms", "ms / floor", "file"), _steps(steps))
    yield ""
    yield "### Memory"
    yield ""
    heads = ("model", "carrier", "weights, GiB", "KV pool", "tensors, peak", "device, peak", "ms", "file")
    yield from table(heads, _memory({n: r for n, r in reports.items() if _script(r) == "memory"}))
    yield ""
    yield "### Noise"
    yield ""
    heads = ("dtype", "operation", "ms", "GB/s", "G normals/s", "x copy", "file")
    yield from table(heads, _noise({n: r for n, r in reports.items() if _script(r) == "noise"}))
    yield ""
    yield "### Adapters on a server"
    yield ""
    heads = ("model", "case", "members", "requests", "tokens", "s", "tokens/s", "x base", "file")
    yield from table(heads, _adapters({n: r for n, r in reports.items() if _script(r) == "adapters"}))


def table(heads: Sequence[str], rows: Iterator[Sequence[str]]) -> Iterator[str]:
    """Yield a table in Markdown."""
    yield f"| {' | '.join(heads)} |"
    yield f"| {' | '.join('---' for _ in heads)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _steps(reports: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    cases = [(name, case) for name, report in reports.items() for case in report["cases"]]
    cases.sort(key=lambda found: (found[1]["model"], found[1]["length"]))
    for name, case in cases:
        first = (case["model"], str(case["length"]), case["label"])
        if case["status"] != "ok":
            yield (*first, "-", case["status"], "-", "-", name)
            continue
        floor, ratio = case["floor_ms"], case["ms"] / case["floor_ms"]
        yield (*first, number(case["tokens"], 0), number(case["ms"]), number(floor), number(ratio, 2), name)


def _memory(reports: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for name, report in reports.items():
        for case in report["cases"]:
            sizes = (case[size] for size in ("weights_gib", "kv_pool_gib", "tensors_gib", "device_gib"))
            ms = number(case["ms"]) if case["ms"] else case["status"]
            yield (case["model"], case["carrier"], *(number(size, 2) for size in sizes), ms, name)


def _noise(reports: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for name, report in reports.items():
        for case in report["cases"]:
            made = case["normals_per_second"]
            yield (
                *(case["dtype"], case["operation"], number(case["ms"], 3)),
                number(case["bytes_per_second"] / 1e9, 0),
                "-" if made is None else number(made / 1e9, 0),
                *(number(case["x_copy"], 2), name),
            )


def _adapters(reports: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    for name, report in reports.items():
        for case in report["cases"]:
            sizes = (number(case[size], 0) for size in ("members", "requests", "tokens"))
            rates = (number(case["seconds"], 2), number(case["tokens_per_second"], 0))
            yield (case["model"], case["case"], *sizes, *rates, number(case["x_base"], 3), name)


def _script(report: Mapping[str, Any]) -> str:
    return Path(report["command"].split()[1]).stem


if __name__ == "__main__":
    main()

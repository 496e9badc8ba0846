"""A table that is printed row by row as the rows come, and the JSON file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sglang_mezo_plugin.errors import UserError


class Table:
    """Columns of fixed width, so that each row can be printed as soon as it is known.

    columns: heading -> width; one of negative width is aligned to the left.
    """

    def __init__(self, columns: Mapping[str, int]) -> None:
        self._widths = list(columns.values())
        self._lines = [self._line(list(columns)), self._line(["-" * abs(width) for width in self._widths])]

    def print_header(self) -> None:
        print("\n".join(self._lines[:2]), flush=True)

    def add(self, *cells: str) -> None:
        """Add a row and print it."""
        self._lines.append(self._line(cells))
        print(self._lines[-1], flush=True)

    def _line(self, cells: Sequence[str]) -> str:
        fields = [
            cell.ljust(-width) if width < 0 else cell.rjust(width)
            for cell, width in zip(cells, self._widths, strict=True)
        ]
        return "  ".join(fields).rstrip()


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write a report, if a path was given. UserError if it cannot be written."""
    if path is None:
        return
    try:
        path.write_text(json.dumps(content, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--json {path}: {error.strerror}: choose another file") from None


def number(value: float | None, decimals: int = 1) -> str:
    """Return a cell; "-" for what was not measured."""
    return "-" if value is None else f"{value:,.{decimals}f}"

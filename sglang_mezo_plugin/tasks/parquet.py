"""Rows of Parquet files, by the `datasets` library."""

from collections.abc import Iterator
from pathlib import Path

from sglang_mezo_plugin.tasks.fields import Row
from sglang_mezo_plugin.tasks.hub import load, numbered


def parquet_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """Yield the rows of a file, and the file and row, from 0, for messages.

    UserError if it is not Parquet.
    """
    request = {"path": "parquet", "data_files": str(path), "split": "train"}
    return numbered(load(str(path), [request], "mend the file, or write a .jsonl file"), str(path))

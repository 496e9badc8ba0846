"""Rows of a local file, read as its name says; a .gz after that is unpacked on the way."""

from collections.abc import Callable, Iterator
from pathlib import Path

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.fields import Row
from sglang_mezo_plugin.tasks.json_files import json_rows, jsonl_rows
from sglang_mezo_plugin.tasks.parquet import parquet_rows
from sglang_mezo_plugin.tasks.tables import csv_rows, tsv_rows

READERS: dict[str, Callable[[Path], Iterator[tuple[Row, str]]]] = {
    ".csv": csv_rows,
    ".json": json_rows,
    ".jsonl": jsonl_rows,
    ".parquet": parquet_rows,
    ".tsv": tsv_rows,
}


def file_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """Yield the rows of a file, and the file and line, or row from 0, for messages.

    A file with a suffix that is none of `READERS` is read as JSONL. UserError if it cannot be read so.
    """
    suffix = _suffix(path)
    if suffix == ".parquet" and path.suffix == ".gz":
        raise UserError(f"{path}: a packed .parquet file: unpack it with gunzip")
    return READERS.get(suffix, jsonl_rows)(path)


def names_file(source: str) -> bool:
    """Say whether a name ends as those of files do, so that it is no data set's."""
    path = Path(source)
    return path.suffix == ".gz" or _suffix(path) in READERS


def _suffix(path: Path) -> str:
    return Path(path.stem if path.suffix == ".gz" else path.name).suffix.lower()

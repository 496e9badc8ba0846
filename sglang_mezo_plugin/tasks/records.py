"""Records from a file or a data set."""

import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Record
from sglang_mezo_plugin.tasks.fields import Row, Task
from sglang_mezo_plugin.tasks.files import file_rows, names_file
from sglang_mezo_plugin.tasks.hub import hub_rows

DATA_SET_NAME = re.compile(r"[\w.-]+(/[\w.-]+){0,2}(:\S+)?")


T = TypeVar("T")


def read_records(source: str, task: Task, limit: int | None) -> list[Record]:
    """Return the first `limit` records of a source, or all of them for None: see `read_rows`."""
    return read_rows(source, task, limit)


def read_rows(source: str, made_of: Callable[[Row, str], T], limit: int | None) -> list[T]:
    """Return what `made_of(row, where)` makes of a source's first `limit` rows, or of all of them for None.

    source: a .csv, .tsv, .json, .jsonl or .parquet file, all but the last one also packed (.csv.gz); any
    other file, read as JSONL; or, if no file has that name, a Hugging Face data set, "name", "name:split" or
    "name/config:split". UserError for a source that is
    missing, unreadable or empty, for the first row that is refused, and for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise UserError(f"{source}: a limit of {limit} records leaves none: it must be 1 or more")
    records = [made_of(row, where) for row, where in islice(_rows(source), limit)]
    if not records:
        raise UserError(f"{source}: no records in it: name a file or a split that has some")
    return records


def _rows(source: str) -> Iterator[tuple[Row, str]]:
    # Unlike the methods of Path, these are just False for a folder that is closed or a name that is too long.
    if os.path.isdir(source):
        raise UserError(f"{source}: a folder: name a file in it")
    if os.path.exists(source):
        return file_rows(Path(source))
    if names_file(source) or not DATA_SET_NAME.fullmatch(source):
        raise UserError(
            f'{source}: no such file, and no data set\'s name: check the path, or write "name/config:split"'
        )
    return hub_rows(source)

"""Rows of tables in text files: CSV and TSV, whose first line names the columns. A cell is text."""

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.fields import Row
from sglang_mezo_plugin.tasks.opened import opened


def csv_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """Yield the rows of a CSV file, and the file and row, from 0, for messages.

    As in RFC 4180: a cell in quotation marks may hold commas, line ends, and quotation marks written twice.
    UTF-8, with or without a byte order mark; blank lines are skipped. A row that ends early has null for the
    rest. UserError, with the line, if it is not so.
    """
    cure = "put a cell with commas, line ends or quotes in quotes, and double those in it"
    return _rows(path, cure, delimiter=",", strict=True)


def tsv_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """Yield the rows of a TSV file like those of a CSV file.

    Quotation marks are characters like others, as in the files of GLUE: a cell holds no tab and no line end.
    """
    return _rows(path, "write no tab within a cell", delimiter="\t", quoting=csv.QUOTE_NONE)


def _rows(path: Path, cure: str, **dialect: Any) -> Iterator[tuple[Row, str]]:
    csv.field_size_limit(sys.maxsize)  # by default a cell of 131,072 characters is too long
    columns: list[str] | None = None
    number = 0
    with opened(path) as file:
        reader = csv.reader(_lines(file, path), **dialect)
        while True:
            where = f"{path} line {reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{where}: malformed ({error}): {cure}") from None
            if cells is None:
                return
            if not cells:
                continue
            if columns is None:
                columns = _checked(cells, where)
                continue
            if len(cells) > len(columns):
                raise UserError(f"{where}: {len(cells)} cells in a row of {len(columns)} columns: {cure}")
            missing = [None] * (len(columns) - len(cells))
            yield dict(zip(columns, [*cells, *missing], strict=True)), f"{path} row {number}"
            number += 1


def _checked(columns: list[str], where: str) -> list[str]:
    for column in columns:
        if columns.count(column) > 1:
            raise UserError(f'{where}: two columns are named "{column}": rename one of them')
    return columns


def _lines(file: BinaryIO, path: Path) -> Iterator[str]:
    # Decoded strictly, a fault would be that of a block of many lines.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    for number, line in enumerate(text, start=1):
        if not line.isascii():
            try:
                line.encode()
            except UnicodeEncodeError as error:
                at = len(line[: error.start].encode()) + 1
                raise UserError(
                    f"{path} line {number}: byte {at} is not UTF-8: save the file as UTF-8"
                ) from None
        yield line

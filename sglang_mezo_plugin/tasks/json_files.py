"""Rows of JSON files: one object a line (JSONL), or all of them in an array."""

import codecs
import io
import json
import re
import reprlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.fields import Row
from sglang_mezo_plugin.tasks.opened import opened

DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")


def jsonl_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """Yield each line's object, and the file and line for messages; lines are read as they are asked for.

    UTF-8, with or without a byte order mark; blank lines are skipped. UserError if the file cannot be read or
    a line is not a JSON object.
    """
    with opened(path) as lines:
        yield from _line_objects(lines, path)


def json_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """Yield the objects of a .json file, and the file and row, from 0, for messages.

    They stand in an array, in one under "data" in an object, or one a line. Each gets the fields of all, null
    where it has none, as in a table. UTF-8, with or without a byte order mark. UserError if it is not so;
    what is not JSON is named by its line.
    """
    with opened(path) as file:
        content = file.read().removeprefix(codecs.BOM_UTF8)
    rows = [_row(value, f"{path} row {number}") for number, value in enumerate(_values(content, path))]
    fields = dict.fromkeys(field for row in rows for field in row)
    for number, row in enumerate(rows):
        yield {field: row.get(field) for field in fields}, f"{path} row {number}"


def _values(content: bytes, path: Path) -> Iterable[object]:
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        start = content.rfind(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path} line {line}: byte {error.start - start + 1} is not UTF-8: save the file as UTF-8"
        ) from None
    start = _past_space(text, 0)
    if text.startswith("[", start):
        return _elements(text, start, path)
    try:
        first, end = DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        end = 0
    if not end or _past_space(text, end) < len(text):
        return (row for row, _ in _line_objects(io.BytesIO(content), path))
    if isinstance(first, dict) and isinstance(first.get("data"), list):
        return first["data"]
    return [first]


def _elements(text: str, start: int, path: Path) -> Iterator[object]:
    """Yield the values of the array that begins at `start`: one at a time, so that a fault has a line."""
    position = _past_space(text, start + 1)
    more = not text.startswith("]", position)
    while more:
        try:
            value, end = DECODER.raw_decode(text, position)
            end = _past_space(text, end)
            if not text.startswith((",", "]"), end):
                raise json.JSONDecodeError("Expecting ',' or ']'", text, end)
        except (ValueError, RecursionError) as error:
            line = error.lineno if isinstance(error, json.JSONDecodeError) else _line(text, position)
            raise _fault(error, f"{path} line {line}", "write one whole array, [{...}, {...}]") from None
        yield value
        more = text[end] == ","
        position = _past_space(text, end + 1) if more else end
    position = _past_space(text, position + 1)
    if position < len(text):
        raise UserError(f"{path} line {_line(text, position)}: text after the array: put all rows into it")


def _past_space(text: str, position: int) -> int:
    return _SPACE.match(text, position).end()


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _line_objects(lines: Iterable[bytes], path: Path) -> Iterator[tuple[Row, str]]:
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        content = line.removeprefix(codecs.BOM_UTF8).rstrip() if number == 1 else line.rstrip()
        if not content:
            continue
        try:
            value = DECODER.decode(content.decode())
        except (ValueError, RecursionError) as error:
            raise _fault(error, where, "write one whole object a line") from None
        yield _row(value, where), where


def _row(value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {reprlib.repr(value)} is not a JSON object: write {{...}}, one a line")
    return value


def _fault(error: ValueError | RecursionError, where: str, shape: str) -> UserError:
    """Return what is wrong with JSON as one line. shape: the cure of JSON that is malformed."""
    if isinstance(error, UnicodeDecodeError):
        return UserError(f"{where}: byte {error.start + 1} is not UTF-8: save the file as UTF-8")
    if isinstance(error, json.JSONDecodeError):
        return UserError(f"{where}: malformed JSON at column {error.colno} ({error.msg}): {shape}")
    if isinstance(error, RecursionError):
        return UserError(f"{where}: brackets within brackets, too deep to be read: drop that field")
    digits = sys.get_int_max_str_digits()  # int() itself refuses more
    return UserError(f"{where}: an integer of more than {digits} digits: put it in quotes, or drop it")

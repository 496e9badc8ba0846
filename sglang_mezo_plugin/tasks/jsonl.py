"""Rows of a JSONL file: one JSON object a line."""

import codecs
import json
import reprlib
from collections.abc import Iterator
from pathlib import Path

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.fields import Row


def jsonl_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """Yield each line's object, and the file and line for messages; lines are read as they are asked for.

    UTF-8, with or without a byte order mark; blank lines are skipped. UserError if the file cannot be read or
    a line is not a JSON object.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                where = f"{path} line {number}"
                content = line.removeprefix(codecs.BOM_UTF8).rstrip() if number == 1 else line.rstrip()
                if content:
                    yield _object(content, where), where
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): name a file that you may read") from None


def _object(line: bytes, where: str) -> Row:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start + 1} is not UTF-8: save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where}: malformed JSON at column {error.colno} ({error.msg}): write one whole object a line"
        ) from None
    if not isinstance(value, dict):
        raise UserError(f"{where}: {reprlib.repr(value)} is not a JSON object: write {{...}}, one a line")
    return value

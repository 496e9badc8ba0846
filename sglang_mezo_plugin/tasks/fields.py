"""Reading the fields of a row, with messages that say which row and which field."""

import re
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Record

Row = Mapping[str, Any]
"""An object of a JSONL file or a row of a data set, by field name."""

Task = Callable[[Row, str], Record]
"""task(row, where) makes a record of a row, or raises a UserError that begins with where."""


_DIGITS = re.compile(r"\s*[0-9]{1,18}\s*", re.ASCII)


def text_field(row: Row, field: str, where: str) -> str:
    """Return a field that must be text. UserError if it is absent, null or anything else."""
    return text(_present(row, field, where), f'"{field}"', where)


def text(value: object, what: str, where: str) -> str:
    """Return value if it is text that has a UTF-8 form. UserError otherwise, which calls it `what`."""
    if not isinstance(value, str):
        raise UserError(
            f"{where}: {what} must be text, not {reprlib.repr(value)}: put it in quotes, or make its "
            "column text"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = ascii(value[error.start])
        raise UserError(f"{where}: {what} holds {half}, half a character: write both surrogates") from None
    return value


def index_field(row: Row, field: str, count: int, where: str) -> int:
    """Return a field that must be an integer in [0, count), or its digits, as in tables of text.

    UserError otherwise; true is not 1.
    """
    value = _present(row, field, where)
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if type(value) is not int or not 0 <= value < count:
        raise UserError(
            f'{where}: "{field}" must be an integer from 0 to {count - 1}, not {reprlib.repr(value)}: '
            "mend or drop this record"
        )
    return value


def _present(row: Row, field: str, where: str) -> object:
    value = row.get(field)
    if value is None:
        names = ", ".join(f'"{name}"' for name in row) or "none"
        raise UserError(f'{where}: no "{field}" among the fields ({names}): add it, or change --task')
    return value

"""Task "records", the default: rows that hold prompt and completion, or prompt, options and label."""

import reprlib

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Record
from sglang_mezo_plugin.tasks.fields import Row, index_field, text, text_field


def generic(row: Row, where: str) -> Record:
    """Read {"prompt", "completion"} or {"prompt", "options": [two texts or more], "label"}.

    label: an index into the options, or the text of one of them. A field that is null counts as absent, as
    in data sets whose rows all have all columns. Fields with other names are ignored. UserError if not so.
    """
    prompt = text_field(row, "prompt", where)
    if row.get("options") is None:
        completion = text_field(row, "completion", where)
        if row.get("label") is not None:
            # A label may well say that the completion is a bad one, as in preference data.
            raise UserError(f'{where}: "label" goes with "options", not "completion": remove one of them')
        return Record(prompt, (completion,), 0, where)
    if row.get("completion") is not None:
        raise UserError(f'{where}: both "completion" and "options": remove one of them')
    options = _options(row["options"], where)
    return Record(prompt, options, _label(row, options, where), where)


def _options(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) < 2:
        raise UserError(
            f'{where}: "options" must be a list of two texts or more, not {reprlib.repr(value)}: '
            'for a single one, use "completion"'
        )
    options = tuple(text(option, f"option {i}", where) for i, option in enumerate(value))
    for i, option in enumerate(options):
        first = options.index(option)
        if first < i:
            raise UserError(
                f"{where}: options {first} and {i} are both {reprlib.repr(option)}: remove one of them"
            )
    return options


def _label(row: Row, options: tuple[str, ...], where: str) -> int:
    label = row.get("label")
    if not isinstance(label, str):
        return index_field(row, "label", len(options), where)
    if label not in options:
        raise UserError(
            f"{where}: label {reprlib.repr(label)} is none of the options: write it just as it is there, "
            "spaces too, or give its index"
        )
    return options.index(label)

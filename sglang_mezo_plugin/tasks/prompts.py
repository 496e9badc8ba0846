"""--prompt-template: text around every prompt."""

from collections.abc import Sequence
from dataclasses import replace

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Record

PLACE = "{}"


def with_template(records: Sequence[Record], template: str) -> list[Record]:
    """Return the records with prompts put in the place of "{}" in the template, as in "{} It was".

    Plain replacement: other braces, and those of the prompts, stay. UserError unless "{}" is there just once.
    """
    found = template.count(PLACE)
    if found != 1:
        raise UserError(
            f"--prompt-template {template!r} holds {PLACE} {found} times: write it once, for the prompt"
        )
    return [replace(record, prompt=template.replace(PLACE, record.prompt)) for record in records]

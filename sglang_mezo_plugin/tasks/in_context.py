"""In-context learning: solved examples before each prompt."""

from collections.abc import Sequence
from dataclasses import replace

from sglang_mezo_plugin.tasks.example import Record
from sglang_mezo_plugin.tasks.prompts import text_prompt


def with_demonstrations(
    records: Sequence[Record], demonstrations: Sequence[Record], separator: str = "\n\n"
) -> list[Record]:
    """Return the records, each prompt preceded by all demonstrations: their prompts with the right options.

    separator: stands after each demonstration. The default is the reference implementation's for most tasks.
    UserError for a chat among either, if there are demonstrations.
    """
    if not demonstrations:
        return list(records)
    solved = "".join(_prompt(shown) + shown.options[shown.label] + separator for shown in demonstrations)
    return [replace(record, prompt=solved + _prompt(record)) for record in records]


def _prompt(record: Record) -> str:
    return text_prompt(record, "--num-shots")

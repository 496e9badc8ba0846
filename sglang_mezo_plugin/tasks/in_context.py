"""In-context learning: solved examples before each prompt."""

from collections.abc import Sequence
from dataclasses import replace

from sglang_mezo_plugin.tasks.example import Record


def with_demonstrations(
    records: Sequence[Record], demonstrations: Sequence[Record], separator: str = "\n\n"
) -> list[Record]:
    """Return the records, each prompt preceded by all demonstrations: their prompts with the right options.

    separator: stands after each demonstration. The default is the reference implementation's for most tasks.
    """
    solved = "".join(shown.prompt + shown.options[shown.label] + separator for shown in demonstrations)
    return [replace(record, prompt=solved + record.prompt) for record in records]

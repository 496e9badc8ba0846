"""--prompt-template: text around every prompt."""

from collections.abc import Sequence
from dataclasses import replace

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Record

PLACE = "{}"


def with_template(records: Sequence[Record], template: str) -> list[Record]:
    """Return the records with prompts put in the place of "{}" in the template, as in "{} It was".

    Plain replacement: other braces, and those of the prompts, stay. UserError unless "{}" is there just once,
    and for a record that is a chat.
    """
    found = template.count(PLACE)
    if found != 1:
        raise UserError(
            f"--prompt-template {template!r} holds {PLACE} {found} times: write it once, for the prompt"
        )
    prompts = [text_prompt(record, "--prompt-template") for record in records]
    return [
        replace(record, prompt=template.replace(PLACE, prompt))
        for record, prompt in zip(records, prompts, strict=True)
    ]


def text_prompt(record: Record, option: str) -> str:
    """Return a prompt that is text. UserError for a chat, which `option` is not for."""
    if not isinstance(record.prompt, str):
        raise UserError(
            f"{record.where}: {option} is for prompts that are text, and this is a chat: leave it out"
        )
    return record.prompt

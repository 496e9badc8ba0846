"""Chats in rows: lists of turns, and the assistant's last one apart from those before it."""

import reprlib
from collections.abc import Sequence

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Message
from sglang_mezo_plugin.tasks.fields import text

ROLES = ("system", "user", "assistant")


def is_chat(value: object) -> bool:
    """Say whether a field is meant as a chat: a list of objects."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def read_chat(value: object, field: str, where: str) -> tuple[Message, ...]:
    """Return a field's turns, role and content alone. UserError unless it is a list of one or more."""
    if not isinstance(value, list) or not value:
        raise _no_chat(value, field, where)
    return tuple(_message(message, field, where) for message in value)


def split_answer(turns: Sequence[Message], field: str, where: str) -> tuple[tuple[Message, ...], str | None]:
    """Return the turns up to the assistant's last one, and what that says; None if another's is the last.

    UserError if nothing is left to answer to: no turn before it, or another of the assistant.
    """
    if turns[-1]["role"] != "assistant":
        return tuple(turns), None
    before = tuple(turns[:-1])
    if not before or before[-1]["role"] == "assistant":
        raise UserError(
            f"{where}: \"{field}\" must have another's turn before the assistant's last one: mend or drop "
            "this record"
        )
    return before, turns[-1]["content"]


def _message(message: object, field: str, where: str) -> Message:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise _no_chat(message, field, where)
    return {"role": message["role"], "content": text(message.get("content"), 'a message\'s "content"', where)}


def _no_chat(value: object, field: str, where: str) -> UserError:
    return UserError(
        f'{where}: "{field}" must be a list of {{"role": {" or ".join(ROLES)}, "content": text}}, not '
        f"{reprlib.repr(value)}: mend or drop this record"
    )

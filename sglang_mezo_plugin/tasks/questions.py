"""Prompts whose completions a reward judges, and the rows that they are from."""

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.fields import Row, text, text_field
from sglang_mezo_plugin.tasks.records import read_rows

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Question:
    """What a model is asked: text to be continued, or the messages of a chat.

    text: the prompt, or the last message, as a reward gets it. record: the row. where: file and line.
    """

    prompt: str | tuple[Mapping[str, str], ...]
    text: str
    record: Mapping[str, Any]
    where: str


def read_questions(source: str, limit: int | None, chat: bool) -> list[Question]:
    """Return the questions of a source's first `limit` rows, {"prompt": text} or {"messages": [...]}.

    chat: a "prompt" is a user's message, and not text to be continued. Sources are those of `read_records`,
    and so are the errors; UserError besides for rows that are neither.
    """
    return read_rows(source, lambda row, where: _question(row, where, chat), limit)


def _question(row: Row, where: str, chat: bool) -> Question:
    if row.get("messages") is None:
        prompt = text_field(row, "prompt", where)
        if not prompt:
            raise UserError(f'{where}: "prompt" is empty: write one, or drop this record')
        return Question(({"role": "user", "content": prompt},) if chat else prompt, prompt, row, where)
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise _no_chat(messages, where)
    return Question(tuple(_message(m, where) for m in messages), messages[-1]["content"], row, where)


def _message(message: object, where: str) -> Mapping[str, str]:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        raise _no_chat(message, where)
    return {"role": message["role"], "content": text(message.get("content"), 'a message\'s "content"', where)}


def _no_chat(value: object, where: str) -> UserError:
    return UserError(
        f'{where}: "messages" must be a list of {{"role": {" or ".join(ROLES)}, "content": text}}, not '
        f"{reprlib.repr(value)}: mend or drop this record"
    )

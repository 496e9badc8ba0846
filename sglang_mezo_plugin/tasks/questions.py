"""Prompts whose completions a reward judges, and the rows that they are from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.chats import is_chat, read_chat, split_answer
from sglang_mezo_plugin.tasks.example import Message
from sglang_mezo_plugin.tasks.fields import Row, text_field
from sglang_mezo_plugin.tasks.records import read_rows


@dataclass(frozen=True)
class Question:
    """What a model is asked: text to be continued, or the messages of a chat.

    text: the prompt, or the last message, as a reward gets it. record: the row. where: file and line.
    """

    prompt: str | tuple[Message, ...]
    text: str
    record: Mapping[str, Any]
    where: str


def read_questions(source: str, limit: int | None, chat: bool) -> list[Question]:
    """Return the questions of a source's first `limit` rows, {"prompt": text} or {"messages": [...]}.

    chat: a "prompt" is a user's message, and not text to be continued; one that is a list is a chat anyway.
    An assistant's turn at the end of a chat is the answer: no model sees it, and it becomes the record's
    "answer" if that has none. Sources are those of `read_records`, and so are the errors; UserError besides
    for rows that are neither.
    """
    return read_rows(source, lambda row, where: _question(row, where, chat), limit)


def _question(row: Row, where: str, chat: bool) -> Question:
    for field in ("messages", "prompt"):
        if row.get(field) is not None and (field == "messages" or is_chat(row[field])):
            turns, answer = split_answer(read_chat(row[field], field, where), field, where)
            if answer is not None and row.get("answer") is None:
                row = {**row, "answer": answer}
            return Question(turns, turns[-1]["content"], row, where)
    prompt = text_field(row, "prompt", where)
    if not prompt:
        raise UserError(f'{where}: "prompt" is empty: write one, or drop this record')
    return Question(({"role": "user", "content": prompt},) if chat else prompt, prompt, row, where)

"""Chats in rows: what is learnt of them, and what a model is asked."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.rewards import exact_match
from sglang_mezo_plugin.tasks.example import Message, Record
from sglang_mezo_plugin.tasks.fields import Row
from sglang_mezo_plugin.tasks.generic import generic
from sglang_mezo_plugin.tasks.questions import Question, read_questions


def turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


S, U, A, U2 = turn("system", "s"), turn("user", "u"), turn("assistant", "a"), turn("user", "v")


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"messages": [U, A]}, (U,)),
        ({"messages": [S, U, A, U2, A], "prompt": "text", "id": 3}, (S, U, A, U2)),
        ({"messages": [{**U, "name": "n"}, A], "completion": None, "options": None}, (U,)),
        ({"prompt": [U], "completion": [A]}, (U,)),
        ({"prompt": [S, U, A, U2], "completion": [A], "messages": [U, A]}, (S, U, A, U2)),
    ],
)
def test_what_is_learnt(row: Row, prompt: tuple[Message, ...]) -> None:
    assert generic(row, "here") == Record(prompt, ("a",), 0, "here")


def test_a_row_that_has_text_is_read_as_text() -> None:
    row = {"prompt": "p", "completion": "c", "messages": [U, A]}
    assert generic(row, "here") == Record("p", ("c",), 0, "here")


SHAPE = 'must be a list of {"role": system or user or assistant, "content": text}'


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [A, U]}, '"messages" end with a turn of the user: add the assistant\'s'),
        ({"messages": [A]}, "\"messages\" must have another's turn before the assistant's last one"),
        ({"messages": [U, A, A]}, "\"messages\" must have another's turn before the assistant's last one"),
        ({"messages": []}, f'"messages" {SHAPE}, not []'),
        ({"messages": "hi"}, f"\"messages\" {SHAPE}, not 'hi'"),
        ({"messages": [U, turn("robot", "a")]}, f'"messages" {SHAPE}, not '),
        ({"messages": [U, {"role": "assistant"}]}, 'a message\'s "content" must be text, not None'),
        ({"messages": [U, A], "label": 1}, '"label" goes with "options"'),
        ({"prompt": [U], "completion": [A], "label": True}, '"label" goes with "options"'),
        (
            {"prompt": [U], "completion": "a"},
            'of "prompt" and "completion" one is text and one a chat: write',
        ),
        ({"prompt": [U]}, f'"completion" {SHAPE}, not None'),
        ({"prompt": [U], "completion": [U]}, '"completion" of a chat must be one turn, the assistant\'s'),
        ({"prompt": [U], "completion": [A, U]}, '"completion" of a chat must be one turn, the assistant\'s'),
        ({"prompt": [U, A], "completion": [A]}, '"prompt" ends with a turn of the assistant: move it to'),
        (
            {"prompt": "p", "completion": [A]},
            'of "prompt" and "completion" one is text and one a chat: write',
        ),
        ({"prompt": [U], "options": ["a", "b"], "label": 0}, '"options" go with a prompt that is text, not'),
    ],
)
def test_refused(row: Row, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"here: {message}")) as raised:
        generic(row, "here")
    assert "\n" not in str(raised.value)


def questions(folder: Path, row: dict[str, Any], chat: bool = False) -> list[Question]:
    path = folder / "d.jsonl"
    path.write_text(json.dumps(row))
    return read_questions(str(path), None, chat)


@pytest.mark.parametrize("field", ["messages", "prompt"])
def test_the_answer_of_a_chat_is_not_asked(tmp_path: Path, field: str) -> None:
    (question,) = questions(tmp_path, {field: [S, U, A]})
    assert question.prompt == (S, U)
    assert question.text == "u"
    assert question.record == {field: [S, U, A], "answer": "a"}
    assert exact_match(question.text, " a\n", question.record) == 1.0


def test_a_record_keeps_its_own_answer(tmp_path: Path) -> None:
    (question,) = questions(tmp_path, {"messages": [U, A], "answer": "42"})
    assert (question.prompt, question.record["answer"]) == ((U,), "42")


@pytest.mark.parametrize(
    ("row", "chat", "prompt", "text"),
    [
        ({"prompt": "p"}, False, "p", "p"),
        ({"prompt": "p"}, True, (turn("user", "p"),), "p"),
        ({"messages": [U, A, U2], "prompt": "p"}, False, (U, A, U2), "v"),
        ({"prompt": [U, A, U2]}, False, (U, A, U2), "v"),
    ],
)
def test_other_questions(tmp_path: Path, row: dict[str, Any], chat: bool, prompt: Any, text: str) -> None:
    (question,) = questions(tmp_path, row, chat)
    assert question == Question(prompt, text, row, f"{tmp_path / 'd.jsonl'} line 1")


@pytest.mark.parametrize("messages", [[A], [U, A, A]])
def test_chats_without_a_question_are_refused(tmp_path: Path, messages: list[Message]) -> None:
    with pytest.raises(UserError, match="\"messages\" must have another's turn before the assistant's last"):
        questions(tmp_path, {"messages": messages})


def test_the_text_of_a_question(tmp_path: Path) -> None:
    """Journals of earlier versions hold its SHA-256, so it stays as it is."""
    (question,) = questions(tmp_path, {"messages": [U, A, U2], "k": 1})
    assert repr(question) == (
        f"Question(prompt=({U!r}, {A!r}, {U2!r}), text='v', record={question.record!r}, "
        f"where='{tmp_path / 'd.jsonl'} line 1')"
    )

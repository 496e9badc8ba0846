"""Task "records", the default: rows that hold prompt and completion, prompt, options and label, or a chat."""

import reprlib

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.chats import is_chat, read_chat, split_answer
from sglang_mezo_plugin.tasks.example import Record
from sglang_mezo_plugin.tasks.fields import Row, index_field, text, text_field


def generic(row: Row, where: str) -> Record:
    """Read {"prompt", "completion"}, {"prompt", "options": [two texts or more], "label"} or {"messages"}.

    A prompt that is a chat has the assistant's next turn, in a list, as its completion. "messages" are a chat
    with that turn at the end; they count where there is neither completion nor options.
    label: an index into the options, or the text of one of them. A field that is null counts as absent, as
    in data sets whose rows all have all columns. Fields with other names are ignored. UserError if not so.
    """
    _check_kinds(row, where)
    if row.get("options") is None:
        if row.get("messages") is not None and row.get("completion") is None:
            record = _messages(row, where)
        elif is_chat(row.get("prompt")):
            record = _chat_completion(row, where)
        else:
            prompt = text_field(row, "prompt", where)
            record = Record(prompt, (text_field(row, "completion", where),), 0, where)
        if row.get("label") is not None:
            # A label may well say that the completion is a bad one, as in preference data.
            raise UserError(f'{where}: "label" goes with "options", not "completion": remove one of them')
        return record
    prompt = text_field(row, "prompt", where)
    if row.get("completion") is not None:
        raise UserError(f'{where}: both "completion" and "options": remove one of them')
    options = _options(row["options"], where)
    return Record(prompt, options, _label(row, options, where), where)


def _check_kinds(row: Row, where: str) -> None:
    prompt, completion = row.get("prompt"), row.get("completion")
    if is_chat(prompt) and row.get("options") is not None:
        raise UserError(
            f'{where}: "options" go with a prompt that is text, not with a chat: write it as text'
        )
    if None not in (prompt, completion) and is_chat(prompt) != is_chat(completion):
        raise UserError(
            f'{where}: of "prompt" and "completion" one is text and one a chat: write both as texts, or both '
            "as lists of turns"
        )


def _messages(row: Row, where: str) -> Record:
    turns, answer = split_answer(read_chat(row["messages"], "messages", where), "messages", where)
    if answer is None:
        raise UserError(
            f'{where}: "messages" end with a turn of the {turns[-1]["role"]}: add the assistant\'s, which is '
            "what is learnt, or drop this record"
        )
    return Record(turns, (answer,), 0, where)


def _chat_completion(row: Row, where: str) -> Record:
    turns, shown = split_answer(read_chat(row["prompt"], "prompt", where), "prompt", where)
    if shown is not None:
        raise UserError(
            f'{where}: "prompt" ends with a turn of the assistant: move it to "completion", or drop this '
            "record"
        )
    completion = read_chat(row.get("completion"), "completion", where)
    if len(completion) > 1 or completion[0]["role"] != "assistant":
        raise UserError(
            f'{where}: "completion" of a chat must be one turn, the assistant\'s: put the turns before it '
            'into "prompt"'
        )
    return Record(turns, (completion[0]["content"],), 0, where)


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

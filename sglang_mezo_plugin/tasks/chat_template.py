"""From chats to examples, by the chat template of the tokenizer."""

from collections.abc import Sequence

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Example, Message, Record
from sglang_mezo_plugin.tasks.tokenizer import Tokenizer, encode


def encode_chats(records: Sequence[Record], tokenizer: Tokenizer) -> list[Example]:
    """Return the ids of records whose prompts are chats.

    The prompt is the turns as the template has them, with its generation prompt; the completion is exactly
    what it adds after that for the assistant's turn, its end of turn too. Special tokens are the template's
    own. UserError, naming the record, if there is no template, if it refuses the turns, or if the chat with
    the answer does not begin with the prompt's tokens.
    """
    if not records:
        return []
    if not tokenizer.chat_template:
        raise UserError(
            f"{records[0].where}: a chat, but this tokenizer has no chat template: pass --tokenizer-path "
            "with one that has, or write prompt and completion as text"
        )
    prompts = _rendered(records, [list(record.prompt) for record in records], tokenizer, True)
    answered = [[*record.prompt, {"role": "assistant", "content": record.options[0]}] for record in records]
    wholes = _rendered(records, answered, tokenizer, False)
    ids = zip(encode(tokenizer, prompts, False), encode(tokenizer, wholes, False), strict=True)
    return [_example(record, prompt, whole) for record, (prompt, whole) in zip(records, ids, strict=True)]


def _rendered(
    records: Sequence[Record], chats: list[list[Message]], tokenizer: Tokenizer, opens_answer: bool
) -> list[str]:
    def render(chats: list[list[Message]]) -> list[str]:
        return tokenizer.apply_chat_template(chats, add_generation_prompt=opens_answer, tokenize=False)

    try:
        return render(chats)
    except Exception:  # a template raises what it likes; one by one tells for which record
        for record, chat in zip(records, chats, strict=True):
            try:
                render([chat])
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise UserError(
                    f"{record.where}: the chat template refuses these turns ({reason}): mend or drop this "
                    "record"
                ) from error
        raise


def _example(record: Record, prompt: list[int], whole: list[int]) -> Example:
    if whole[: len(prompt)] != prompt:
        raise UserError(
            f"{record.where}: the chat template writes the turns before the answer otherwise once it is "
            "there, so no tokens are the answer's alone: pass --tokenizer-path with another template, or "
            "write prompt and completion as text"
        )
    return Example(tuple(prompt), (tuple(whole[len(prompt) :]),), 0)

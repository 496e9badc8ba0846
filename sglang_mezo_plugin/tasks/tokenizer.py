"""What is used of a transformers tokenizer, and texts encoded with it."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from sglang_mezo_plugin.tasks.example import Message


class Tokenizer(Protocol):
    """What is used of a transformers tokenizer."""

    eos_token_id: int | None
    chat_template: str | Mapping[str, str] | None

    def __call__(self, text: list[str], *, add_special_tokens: bool, **options: bool) -> Any: ...

    def apply_chat_template(
        self, conversation: list[list[Message]], *, add_generation_prompt: bool, tokenize: bool
    ) -> list[str]: ...

    def convert_ids_to_tokens(self, ids: int) -> str: ...


def encode(tokenizer: Tokenizer, texts: Sequence[str], special: bool) -> list[list[int]]:
    """Return the texts' ids, with the special tokens before and after each, or without."""
    if not texts:
        return []  # transformers refuses an empty list
    # No masks, which would take half of the time, and no warning about lengths, which are checked here.
    return tokenizer(
        list(texts),
        add_special_tokens=special,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]

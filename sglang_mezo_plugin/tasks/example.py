"""What a model is trained and scored on: a prompt, what may follow it, and which of that is right."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

Message = Mapping[str, str]
"""A turn of a chat: {"role", "content"}."""


@dataclass(frozen=True)
class Record:
    """An example as text. A completion is the only option of its prompt, with label 0.

    prompt: text to be continued, or the turns of a chat; then the option is the assistant's next turn.
    where: file and line, or row of a data set; for messages.
    """

    prompt: str | tuple[Message, ...]
    options: tuple[str, ...]
    label: int
    where: str = ""


@dataclass(frozen=True)
class Example:
    """An example as token ids. Neither the prompt nor any option is empty; 0 <= label < len(options)."""

    prompt: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    label: int

    @property
    def length(self) -> int:
        """Tokens of the prompt with its longest option."""
        return len(self.prompt) + max(len(option) for option in self.options)


@dataclass(frozen=True)
class Batch(Generic[T]):
    """Examples that are scored together, or other things that are drawn together.

    identity: 16 hexadecimal digits that tell the batch from any other, for the journal.
    """

    examples: tuple[T, ...]
    identity: str

    @classmethod
    def of(cls, examples: Sequence[T]) -> "Batch[T]":
        digest = hashlib.sha256(repr(tuple(examples)).encode())
        return cls(tuple(examples), digest.hexdigest()[:16])

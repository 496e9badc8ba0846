"""Members of a population: adapters, what each of them is asked, and what comes of it.

Whoever can ask them (`client.Server`) is a `Population`'s engine, as a `Carrier` is that of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from sglang_mezo_plugin.errors import UserError

if TYPE_CHECKING:
    import torch

Messages = Sequence[Mapping[str, Any]]
Prompt = str | Sequence[int] | Messages


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. All of it is stated: a server's or a model's own preferences do not count.

    temperature: 0 for greedy. seed: in [-2**63, 2**63); heard by a server with
    --enable-deterministic-inference alone.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = -1
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True)
class Job:
    """A prompt as text, token ids or messages; adapter: the name of one that is loaded, None: the base."""

    prompt: Prompt
    sampling: Sampling
    adapter: str | None = None


@dataclass(frozen=True)
class Completion:
    """finish_reason: "stop", or "length" if max_new_tokens ended it. Counts are of tokens."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Member:
    """An adapter and what it is asked. tensors: made anew at each call, so that few are in memory.

    config: PEFT's. jobs: their `adapter` is filled in.
    """

    tensors: Callable[[], Mapping[str, torch.Tensor]]
    config: Mapping[str, Any]
    jobs: Sequence[Job]


Outcomes = list[Completion | UserError]
"""What came of each job, in order: a completion, or why there is none."""


class Asker(Protocol):
    """Asks members; how many at once is its own affair."""

    def evaluate_members(self, members: Sequence[Member], concurrency: int) -> list[Outcomes]:
        """Return the outcomes of each member's jobs, in order, with at most `concurrency` in flight."""
        ...

"""How many devices a run has, and which of them hold one replica of the model."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_mezo_plugin.errors import UserError


@dataclass(frozen=True)
class Layout:
    """dp_size replicas of the model, each of them on tp_size devices.

    Rank r is shard r % tp_size of replica r // tp_size. UserError for a size below 1.
    """

    tp_size: int = 1
    dp_size: int = 1

    def __post_init__(self) -> None:
        for name in ("tp_size", "dp_size"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be 1 or more, not {getattr(self, name)}")

    @property
    def size(self) -> int:
        return self.tp_size * self.dp_size

    def replica(self, number: int) -> range:
        """Return the ranks of a replica; the first one answers for all."""
        return range(number * self.tp_size, (number + 1) * self.tp_size)

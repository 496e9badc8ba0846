"""How many devices a run has, and which of them hold one replica of the model."""

from __future__ import annotations

from dataclasses import dataclass

from sglang_mezo_plugin.bounds import ONE_OR_MORE, bounded, check_fields


@dataclass(frozen=True)
class Layout:
    """dp_size replicas of the model, each of them on tp_size devices.

    Rank r is shard r % tp_size of replica r // tp_size. UserError for a size below 1.
    """

    tp_size: int = bounded(1, ONE_OR_MORE)
    dp_size: int = bounded(1, ONE_OR_MORE)

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def size(self) -> int:
        return self.tp_size * self.dp_size

    def replica(self, number: int) -> range:
        """Return the ranks of a replica; the first one answers for all."""
        return range(number * self.tp_size, (number + 1) * self.tp_size)

"""The order in which examples are drawn: epochs, each one permuted, as a pure function of (seed, step)."""

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sglang_mezo_plugin.bounds import ONE_OR_MORE
from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Batch

BATCH_SIZE = ONE_OR_MORE
T = TypeVar("T")


class Sampler(Generic[T]):
    """Batches drawn without replacement: every example once an epoch.

    The epochs follow each other in one endless sequence, and step s takes its elements (s - 1) * batch_size
    to s * batch_size. So a batch may straddle two epochs, and be larger than the data set.
    """

    def __init__(self, examples: Sequence[T], batch_size: int, seed: int) -> None:
        """seed: 0 <= seed < 2**64. UserError if it is outside, without examples, or for batch_size < 1."""
        if not examples:
            raise UserError("no examples to train on: the data set is empty")
        BATCH_SIZE.check("batch_size", batch_size)
        if not 0 <= seed < 2**64:
            raise UserError(f"--seed must be from 0 to 2**64 - 1, not {seed}")
        self._examples = examples
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0
        self._order = self._permutation(0)

    def batch(self, step: int) -> Batch[T]:
        """Return the batch of a step, counted from 1; any step may be asked for, in any order."""
        if step < 1:
            raise ValueError(f"steps count from 1, not {step}")
        positions = range((step - 1) * self._batch_size, step * self._batch_size)
        return Batch.of([self._examples[self._index(position)] for position in positions])

    def _index(self, position: int) -> int:
        epoch, index = divmod(position, len(self._examples))
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        return int(self._order[index])

    def _permutation(self, epoch: int) -> NDArray[np.intp]:
        """Return the permutation that sorts the epoch's random words.

        NumPy keeps the stream of a bit generator from release to release (NEP 19), but not what
        Generator.permutation makes of it, and a journal must replay with another release.
        """
        key = np.array([self._seed, epoch], dtype=np.uint64)
        return np.argsort(np.random.Philox(key=key).random_raw(len(self._examples)), kind="stable")

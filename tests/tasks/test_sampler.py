"""The order of examples: known answers, and a pure function of (seed, step)."""

import re
from itertools import chain

import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Batch, Example
from sglang_mezo_plugin.tasks.sampler import Sampler

EXAMPLES = [Example((i,), ((0,),), 0) for i in range(5)]


def drawn(batch: Batch) -> list[int]:
    return [example.prompt[0] for example in batch.examples]


@pytest.mark.parametrize(
    ("seed", "batches"),
    [
        (7, [[4, 1, 3], [2, 0, 3], [1, 2, 4], [0, 4, 0], [1, 3, 2]]),
        (2**64 - 1, [[0, 4, 2], [3, 1, 3], [2, 4, 0], [1, 2, 3], [0, 1, 4]]),
    ],
)
def test_known_answer(seed: int, batches: list[list[int]]) -> None:
    """Another order would make every journal that was ever written worthless."""
    sampler = Sampler(EXAMPLES, 3, seed)
    assert [drawn(sampler.batch(step)) for step in range(1, 6)] == batches


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 12])
def test_steps_cut_one_sequence_of_epochs(batch_size: int) -> None:
    """The sequence does not depend on the batch size, which may exceed the data set."""
    sampler, one_by_one = Sampler(EXAMPLES, batch_size, 7), Sampler(EXAMPLES, 1, 7)
    sequence = list(chain.from_iterable(drawn(sampler.batch(step)) for step in range(1, 61)))
    assert sequence == [drawn(one_by_one.batch(step))[0] for step in range(1, 60 * batch_size + 1)]
    epochs = [tuple(sequence[i : i + 5]) for i in range(0, len(sequence), 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > len(epochs) // 4


def test_any_order_of_steps() -> None:
    forward, backward = Sampler(EXAMPLES, 4, 1), Sampler(EXAMPLES, 4, 1)
    expected = [forward.batch(step) for step in range(1, 20)]
    assert [backward.batch(step) for step in range(19, 0, -1)] == expected[::-1]
    assert backward.batch(7) == expected[6]
    assert backward.batch(7).identity == Batch.of(expected[6].examples).identity


@pytest.mark.parametrize(
    ("examples", "batch_size", "seed", "message"),
    [
        ([], 1, 0, "no examples"),
        (EXAMPLES, 0, 0, "--batch-size must be 1 or more, not 0"),
        (EXAMPLES, 1, -1, "--seed must be from 0 to 2**64 - 1, not -1"),
        (EXAMPLES, 1, 2**64, "--seed must be from 0 to 2**64 - 1"),
    ],
)
def test_refused(examples: list[Example], batch_size: int, seed: int, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Sampler(examples, batch_size, seed)


def test_there_is_no_step_0() -> None:
    with pytest.raises(ValueError, match="steps count from 1, not 0"):
        Sampler(EXAMPLES, 1, 0).batch(0)

"""Countdown problems: 3 or 4 numbers from 1 to 99 and a target from 10 to 100, as in the field's data set.

That one is Countdown-Tasks-3to4 (Pan et al. 2025). Here the target is the value of an expression drawn at
random, so that each problem has a solution.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from random import Random
from typing import Any

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.rewards.arithmetic import OPERATIONS
from sglang_mezo_plugin.rewards.countdown import prompt_for

COUNTS = range(3, 5)
NUMBERS = range(1, 100)
TARGETS = range(10, 101)


@dataclass(frozen=True)
class Problem:
    """solution: one of the expressions that reach the target, with all its brackets."""

    numbers: tuple[int, ...]
    target: int
    solution: str

    def record(self) -> dict[str, Any]:
        """Return the problem as an object of a JSONL file: "prompt", "numbers", "target", "solution"."""
        return {"prompt": prompt_for(self.numbers, self.target), **asdict(self)}


def problems(seed: int) -> Iterator[Problem]:
    """Yield problems without end, no two with the same target and numbers in any order.

    Same seed, same problems, whatever the release of Python. UserError for a seed below 0.
    """
    if seed < 0:
        raise UserError(f"--seed must be 0 or more, not {seed}")
    random = Random(seed)
    seen = set()
    while True:
        problem = _problem(random)
        key = tuple(sorted(problem.numbers)), problem.target
        if key not in seen:
            seen.add(key)
            yield problem


def _problem(random: Random) -> Problem:
    count = COUNTS[_below(random, len(COUNTS))]
    while True:
        numbers = tuple(NUMBERS[_below(random, len(NUMBERS))] for _ in range(count))
        try:
            value, solution = _expression(numbers, random)
        except ZeroDivisionError:
            continue
        if value in TARGETS:
            return Problem(numbers, int(value), solution)


def _expression(numbers: tuple[int, ...], random: Random) -> tuple[Fraction, str]:
    """Join two expressions that are drawn, by an operator that is, until one is left with all numbers."""
    forest = [(Fraction(number), str(number)) for number in numbers]
    while len(forest) > 1:
        left, left_text = forest.pop(_below(random, len(forest)))
        right, right_text = forest.pop(_below(random, len(forest)))
        sign = "+-*/"[_below(random, 4)]
        forest.append((OPERATIONS[sign](left, right), f"({left_text} {sign} {right_text})"))
    return forest[0]


def _below(random: Random, stop: int) -> int:
    """Return an integer in [0, stop). Of its methods, Random promises the stream of random() alone."""
    return int(random.random() * stop)

"""What a number or a field may be, and what is said of one that is not."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from sglang_mezo_plugin.bounds import FRACTION, ONE_OR_MORE, POSITIVE, Bound, bounded, check_fields
from sglang_mezo_plugin.errors import UserError


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [
        (Bound(at_least=1), [1, 2.5, math.inf], [0.9, -1, math.nan]),
        (Bound(above=0), [5e-324, math.inf], [0, -1, math.nan]),
        (Bound(at_most=2), [2, -math.inf], [2.1, math.nan]),
        (Bound(below=1), [0.9, -math.inf], [1, math.nan]),
        (Bound(at_least=0, finite=True), [0, 1e308], [-1, math.inf, math.nan]),
        (Bound(at_least=1, besides=-1), [-1, 1], [0, -2]),
        (FRACTION, [0, 0.9], [-0.1, 1]),
        (POSITIVE, [5e-324], [0, math.inf]),
        (ONE_OR_MORE, [1], [0]),
    ],
    ids=str,
)
def test_limits(bound: Bound, inside: list[float], outside: list[float]) -> None:
    for value in inside:
        bound.check("num_pairs", value)
    for value in outside:
        with pytest.raises(UserError, match=re.escape(f"--num-pairs must be {bound}, not {value}")):
            bound.check("num_pairs", value)


def test_words() -> None:
    assert str(Bound(at_least=0.001, finite=True)) == "at least 0.001 and finite"
    assert str(Bound(above=0, at_most=1)) == "above 0 and at most 1"
    assert str(Bound(at_least=0, below=8, words="in [0, 8)")) == "in [0, 8)"


@dataclass(frozen=True)
class Fields:
    number: int = bounded(1, ONE_OR_MORE)
    rate: float | None = bounded(None, POSITIVE)
    betas: tuple[float, float] = bounded((0.5, 0.5), FRACTION)
    sign: Literal["plus", "minus"] = "plus"
    task: str = field(default="records", metadata={"choices": ("records", "sst2")})
    names: Sequence[str] | Literal["all"] | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"number": 0}, "--number must be 1 or more, not 0"),
        ({"number": "3"}, "--number must be a whole number, not '3'"),
        ({"number": 1.5}, "--number must be a whole number, not 1.5"),
        ({"number": True}, "--number must be a whole number, not True"),
        ({"number": None}, "--number must be a whole number, not None"),
        ({"rate": 0.0}, "--rate must be above 0 and finite, not 0.0"),
        ({"rate": "fast"}, "--rate must be a number, not 'fast'"),
        ({"betas": (0.5, 1.0)}, "--betas must be in [0, 1), not 1.0"),
        ({"betas": [0.5]}, "--betas must be 2 of a number, not [0.5]"),
        ({"sign": "both"}, "--sign must be one of plus, minus, not both"),
        ({"task": "sst3"}, "--task must be one of records, sst2, not sst3"),
        ({"names": "some"}, "--names must be a list, each text or all, not 'some'"),
        ({"names": [1]}, "--names must be a list, each text or all, not [1]"),
        ({"quiet": 1}, "--quiet must be true or false, not 1"),
    ],
    ids=str,
)
def test_fields_that_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        Fields(**values)
    assert str(refused.value) == message


@pytest.mark.parametrize(
    "values", [{"rate": 1}, {"betas": [0, 0.9]}, {"names": ["a"]}, {"names": "all"}, {"names": ("a", "b")}]
)
def test_fields_that_are_accepted(values: dict[str, Any]) -> None:
    Fields(**values)

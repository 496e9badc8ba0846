"""What a number, or a field of a dataclass, may be: stated once, where it is used, and checked by name.

    @dataclass(frozen=True)
    class Layout:
        tp_size: int = bounded(1, Bound(at_least=1))

        def __post_init__(self) -> None:
            check_fields(self)          # UserError: --tp-size must be at least 1, not 0

The options of the commands take their bounds from such fields, so that no bound is written twice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sglang_mezo_plugin.errors import UserError

KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Bound:
    """An interval of numbers, NaN in none. besides: a number outside that is fine too.

    words: in place of those made from the numbers.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    finite: bool = False
    besides: float | None = None
    words: str | None = None

    def __contains__(self, value: float) -> bool:
        if self.besides is not None and value == self.besides:
            return True
        return not math.isnan(value) and (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
            and (not self.finite or math.isfinite(value))
        )

    def __str__(self) -> str:
        if self.words is not None:
            return self.words
        limits = [
            f"{name.replace('_', ' ')} {value:g}"
            for name in ("at_least", "above", "at_most", "below")
            if (value := getattr(self, name)) is not None
        ]
        return " and ".join([*limits, "finite"] if self.finite else limits)

    def check(self, name: str, value: float) -> None:
        """Raise UserError, by the option's name, for a value outside."""
        if value not in self:
            raise UserError(f"{flag(name)} must be {self}, not {value}")


FRACTION = Bound(at_least=0, below=1, words="in [0, 1)")
POSITIVE = Bound(above=0, finite=True)
ONE_OR_MORE = Bound(at_least=1, words="1 or more")


def bounded(default: Any, bound: Bound) -> Any:
    """Return a dataclass field with a bound; MISSING for a field that has no default."""
    return field(default=default, metadata={"bound": bound})


def bound_of(owner: type, name: str) -> Bound | None:
    """Return the bound of a dataclass's field, None if it has none."""
    return owner.__dataclass_fields__[name].metadata.get("bound")


def check_fields(instance: Any) -> None:
    """Raise UserError for the first field that is not of its type, its choices or its bound.

    A field's metadata: "bound", of the number or of each number in it; "choices", where its type says none.
    """
    hints = get_type_hints(type(instance))
    for declared in fields(instance):
        name, about = declared.name, declared.metadata
        value, hint = getattr(instance, name), hints[name]
        if not fits(value, hint):
            raise UserError(f"{flag(name)} must be {kind(hint)}, not {_shown(value, hint)}")
        if value is None:
            continue
        choices = about.get("choices")
        if choices and value not in choices:
            raise UserError(f"{flag(name)} must be one of {', '.join(choices)}, not {value}")
        if bound := about.get("bound"):
            for number in value if isinstance(value, list | tuple) else (value,):
                bound.check(name, number)


def fits(value: object, hint: Any) -> bool:
    """Return whether a value is of a type: of int, float, str, bool, None, Literal, sequences and unions.

    An int is a float too, but no bool is a number; a list does for a tuple, and no text is a sequence.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, list | tuple) and len(value) == len(parts) and _all_fit(value, parts[0])
    if origin is not None:
        return isinstance(value, list | tuple) and _all_fit(value, parts[0])
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, int | float if hint is float else hint)


def kind(hint: Any) -> str:
    """Return what a value of a type is, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(kind(part) for part in parts if part is not type(None))
    if origin is Literal:
        return f"one of {', '.join(parts)}" if len(parts) > 1 else parts[0]
    if origin is tuple:
        return f"{len(parts)} of {kind(parts[0])}"
    return f"a list, each {kind(parts[0])}" if origin else KINDS[hint]


def flag(name: str) -> str:
    """Return the option of a field."""
    return f"--{name.replace('_', '-')}"


def _all_fit(values: Sequence[object], hint: Any) -> bool:
    return all(fits(value, hint) for value in values)


def _shown(value: object, hint: Any) -> str:
    return str(value) if get_origin(hint) is Literal else repr(value)

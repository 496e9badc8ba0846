"""An option is a field of a dataclass: its name, type and default, and in its metadata all else about it.

    @dataclass(frozen=True, kw_only=True)
    class Run(Options):
        title = "run"
        seed: int = option(0, bound=SEED, header=20, help="of the noise; default: {default}")

From these declarations come the command line (`cli.parsing`), the checks, the header of a run's journal and
its options.json. A group is a class with a title; a command's options are a class that has groups for its
bases, the last of them first in --help. Such a class can be made from Python, from a command line or from a
mapping, as JSON gives one, with the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Self

from sglang_mezo_plugin.bounds import Bound, check_fields, flag
from sglang_mezo_plugin.errors import UserError


def option(
    default: Any = MISSING,
    *,
    help: str | None = None,
    flags: Sequence[str] = (),
    metavar: str | None = None,
    choices: Sequence[str] | None = None,
    bound: Bound | None = None,
    header: int | None = None,
    when: Callable[[Any], bool] | None = None,
    one_of: str | None = None,
    command_line: bool = True,
) -> Any:
    """Return the field of an option; one without a default is required.

    help: "{default}" in it stands for the default. flags: all spellings, if there are several. choices: where
    the type is no Literal. header: the option's place in the journal's header if it decides what is computed;
    places do not change, since runs of before go on. when: whether it is there, given all options; None:
    always. one_of: exactly one option of those with this name is to be given. command_line: False for what a
    command's users cannot choose.
    """
    about = {
        "help": help,
        "flags": flags,
        "metavar": metavar,
        "choices": choices,
        "bound": bound,
        "header": header,
        "when": when,
        "one_of": one_of,
    }
    return field(default=default, init=command_line, metadata=about)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options with their values. UserError for the first that is not what its declaration says."""

    title: ClassVar[str | None] = None
    description: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        check_fields(self)
        for names in exclusive_options(type(self)):
            given = [flag(name) for name in names if getattr(self, name)]
            if not given:
                raise UserError(f"one of {' '.join(map(flag, names))} is required: pass one")
            if len(given) > 1:
                raise UserError(f"{given[1]} is not allowed with {given[0]}: pass one of them")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Return the options with these values. UserError for a name that is none, or that is missing."""
        known = {declared.name: declared for declared in fields(cls) if declared.init}
        for name in values:
            if name not in known:
                raise UserError(f"no option {name!r}: choose from {', '.join(known)}")
        for name, declared in known.items():
            if name not in values and declared.default is MISSING:
                raise UserError(f"{flag(name)} is required: pass it")
        return cls(**values)

    def values(self) -> dict[str, Any]:
        """Return the options by name, in the order of --help."""
        return {declared.name: getattr(self, declared.name) for declared in fields(self)}

    def header(self, **found: Any) -> dict[str, Any]:
        """Return the options that decide what is computed, as JSON gives them back: headers are compared.

        found: what has come of options that leave a choice to the program.
        """
        places = {
            declared.metadata["header"]: declared.name
            for declared in fields(self)
            if declared.metadata["header"] is not None
            and (declared.metadata["when"] is None or declared.metadata["when"](self))
        }
        values = {name: found.get(name, getattr(self, name)) for _, name in sorted(places.items())}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    def _fill(self, name: str, value: Any) -> None:
        """Set an option before the checks."""
        object.__setattr__(self, name, value)


def groups(options: type[Options]) -> Iterator[type[Options]]:
    """Yield the groups of a command's options, in the order of --help."""
    yield from reversed(options.__bases__)


def exclusive_options(options: type[Options]) -> list[list[str]]:
    """Return the names of options of which exactly one is to be given, those together that go together."""
    together: dict[str, list[str]] = {}
    for declared in fields(options):
        if name := declared.metadata["one_of"]:
            together.setdefault(name, []).append(declared.name)
    return list(together.values())

"""From declared options to a command line, and how what SGLang calls its own is left for SGLang.

Not transformers' HfArgumentParser: it also takes each option with underscores, gives switches a value,
reads a file of options that lies beside the program, and knows neither what groups are about, nor options of
which one is required, nor tuples, nor a name that is not the first of an option's spellings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import MISSING, Field, fields
from types import UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

from sglang_mezo_plugin.bounds import flag
from sglang_mezo_plugin.cli.declaring import Options, groups
from sglang_mezo_plugin.errors import UserError

Group = TypeVar("Group", bound=Options)


class Parser(argparse.ArgumentParser):
    """Raises UserError where argparse would print the whole usage. Options are not to be abbreviated."""

    def __init__(self, description: str, epilog: str) -> None:
        super().__init__(
            prog=f"python -m {sys.modules['__main__'].__spec__.name}" if _is_module() else None,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}: see --help")

    def add_options(self, group: type[Options]) -> None:
        """Add a group; one without a title goes with --help."""
        place: Any = self.add_argument_group(group.title, group.description) if group.title else self
        hints = get_type_hints(group)
        exclusive: dict[str, Any] = {}
        for declared in fields(group):
            if not declared.init:
                continue
            target = place
            if name := declared.metadata["one_of"]:
                target = exclusive.get(name) or place.add_mutually_exclusive_group(required=True)
                exclusive[name] = target
            _add(target, declared, hints[declared.name])


def make_parser(options: type[Options], text: str) -> Parser:
    """Return the parser of a command. text: its docstring."""
    parser = Parser(*text.split("\n\n", 1))
    for group in groups(options):
        parser.add_options(group)
    return parser


def parse(parser: Parser, argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the words that are none of ours: SGLang's, to be read by SGLang's parser."""
    args, rest = parser.parse_known_args(argv)
    if rest and not rest[0].startswith("--"):
        parser.error(f"unrecognised argument {rest[0]!r}")
    return args, rest


def read_options(options: type[Group], text: str, argv: Sequence[str] | None) -> tuple[Group, list[str]]:
    """Return a command's options, checked, and SGLang's words."""
    args, rest = parse(make_parser(options, text), argv)
    return options.of(vars(args)), rest


def _add(place: Any, declared: Field[Any], hint: Any) -> None:
    about = declared.metadata
    words: dict[str, Any] = {"dest": declared.name, "help": _help(about["help"], declared.default)}
    if declared.default is MISSING:
        words["required"] = True
    else:
        words["default"] = declared.default
    kind = _main_part(hint)
    if kind is bool:
        words["action"] = "store_true"
    else:
        if about["metavar"]:
            words["metavar"] = about["metavar"]
        words |= _values(kind)
        if about["choices"]:
            words["choices"] = about["choices"]
    place.add_argument(*(about["flags"] or [flag(declared.name)]), **words)


def _main_part(hint: Any) -> Any:
    """Return a type without None, and without the values that only programs give."""
    return get_args(hint)[0] if get_origin(hint) in (Union, UnionType) else hint


def _values(kind: Any) -> dict[str, Any]:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return {"choices": parts}
    if origin is not None:
        return {"type": parts[0], "nargs": len(parts) if origin is tuple else "+"}
    return {"type": kind}


def _help(text: str | None, default: Any) -> str | None:
    return text and text.replace("{default}", short(default))


def short(value: Any) -> str:
    """Return a default as people write it: 1e-3 and not 0.001."""
    if isinstance(value, float):
        small = 0 < abs(value) < 0.1
        return np.format_float_scientific(value, trim="-", exp_digits=1) if small else f"{value:g}"
    return str(value)


def _is_module() -> bool:
    return getattr(sys.modules["__main__"], "__spec__", None) is not None

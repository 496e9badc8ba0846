"""Options that cannot be are refused alike from a command line and from a mapping."""

import math
from dataclasses import fields
from typing import Any

import pytest
from command_lines import COMMANDS

from sglang_mezo_plugin.bounds import flag
from sglang_mezo_plugin.errors import UserError

POSITIVE = ("above 0 and finite", [5e-324, 1e308], [0.0, -1.0, math.inf, math.nan])
FRACTION = ("in [0, 1)", [0.0, 0.9], [-0.1, 1.0, math.nan])
ONE_OR_MORE = ("1 or more", [1], [0, -1])
AT_LEAST_1 = ("at least 1", [1], [0, -1])
# By option: what it must be, values at its limits, and values beyond them.
BOUNDS: dict[str, tuple[str, list[Any], list[Any]]] = {
    "tp_size": ONE_OR_MORE,
    "dp_size": ONE_OR_MORE,
    "batch_size": ONE_OR_MORE,
    "learning_rate": POSITIVE,
    "eps": POSITIVE,
    "adam_eps": POSITIVE,
    "projected_grad_clip": POSITIVE,
    "momentum": FRACTION,
    "adam_betas": FRACTION,
    "steps": AT_LEAST_1,
    "num_pairs": AT_LEAST_1,
    "lora_rank": AT_LEAST_1,
    "seed": ("in [0, 2**31)", [0, 2**31 - 1], [-1, 2**31]),
    "eval_steps": ("at least 0", [0], [-1]),
    "max_new_tokens": ("at least 1 and finite", [1], [0]),
    "concurrency": ("at least 1 and finite", [1], [0]),
    "temperature": ("at least 0 and finite", [0.0], [-0.1, math.inf, math.nan]),
    "patience": ("at least 0 and finite", [0.0], [-0.1, math.inf, math.nan]),
    "timeout": ("at least 0.001 and finite", [0.001], [0.0009, math.inf, math.nan]),
    "top_p": ("above 0 and at most 1", [5e-324, 1.0], [0.0, 1.1, math.nan]),
    "top_k": ("1 or more, or -1 for all", [-1, 1], [0, -2]),
}
BOUNDED = [
    (command, declared.name)
    for command, (_, options, _) in COMMANDS.items()
    for declared in fields(options)
    if declared.metadata["bound"]
]


def test_no_bound_is_without_its_case() -> None:
    assert {name for _, name in BOUNDED} == BOUNDS.keys()


@pytest.mark.parametrize(("command", "name"), BOUNDED)
def test_bounds(command: str, name: str) -> None:
    known = COMMANDS[command]
    words, inside, outside = BOUNDS[name]
    for number in inside:
        value = (number, number) if name == "adam_betas" else number
        assert getattr(known.options.of({**known.least, name: value}), name) == value
    for number in outside:
        value = [number, number] if name == "adam_betas" else number
        for make in (
            lambda value=value: known.options.of({**known.least, name: value}),
            lambda number=number: known.read(flag(name), *[str(number)] * (1 + (name == "adam_betas"))),
        ):
            with pytest.raises(UserError) as refused:
                make()
            assert str(refused.value) == f"{flag(name)} must be {words}, not {number}"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mapping_makes_what_the_command_line_makes(command: str) -> None:
    known = COMMANDS[command]
    assert known.options.of(known.least) == known.read()


@pytest.mark.parametrize(
    ("command", "values", "message"),
    [
        ("train", {"stepz": 3}, "no option 'stepz': choose from model_path, tokenizer_path, "),
        ("train", {"steps": "3"}, "--steps must be a whole number, not '3'"),
        ("train", {"mode": ["lora"]}, "--mode must be one of lora, full, not ['lora']"),
        (
            "train",
            {"mode": "full", "optimizer": "adam"},
            "--optimizer adam would keep copies of all weights: ",
        ),
        ("train", {"task": "sst3"}, "--task must be one of records, sst2, not sst3"),
        ("evolve", {"mode": "full"}, "no option 'mode': choose from "),
        ("evolve", {"population": 5}, "--population must be an even number of 2 or more, not 5"),
        ("evolve", {"launch_server": True}, "--launch-server is not allowed with --server: pass one of them"),
        ("evolve", {"server": None}, "one of --server --launch-server is required: pass one"),
        ("export", {"step": 1.5}, "--step must be a whole number, not 1.5"),
    ],
    ids=str,
)
def test_mappings_that_are_refused(command: str, values: dict[str, Any], message: str) -> None:
    known = COMMANDS[command]
    with pytest.raises(UserError) as refused:
        known.options.of({**known.least, **values})
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_required(command: str) -> None:
    known = COMMANDS[command]
    for name in known.least.keys() - {"server"}:
        rest = {other: value for other, value in known.least.items() if other != name}
        with pytest.raises(UserError, match=f"^{flag(name)} is required: pass it$"):
            known.options.of(rest)
        with pytest.raises(
            UserError, match=f"^the following arguments are required: {flag(name)}: see --help$"
        ):
            known._replace(least=rest).read()


def test_one_server_is_asked() -> None:
    evolve = COMMANDS["evolve"]
    rest = {name: value for name, value in evolve.least.items() if name != "server"}
    with pytest.raises(UserError, match=r"^one of the arguments --server --launch-server is required: see"):
        evolve._replace(least=rest).read()
    with pytest.raises(
        UserError, match=r"^argument --launch-server: not allowed with argument --server: see"
    ):
        evolve.read("--launch-server")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_in_the_header_has_a_place_of_its_own(command: str) -> None:
    places = [declared.metadata["header"] for declared in fields(COMMANDS[command].options)]
    taken = [place for place in places if place is not None]
    assert len(set(taken)) == len(taken)

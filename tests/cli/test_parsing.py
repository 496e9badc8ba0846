"""The command line: what --help lists, other spellings, and what is left for SGLang."""

from dataclasses import fields

import pytest
from command_lines import COMMANDS

from sglang_mezo_plugin.bounds import flag
from sglang_mezo_plugin.cli.options import TrainOptions
from sglang_mezo_plugin.cli.parsing import make_parser, read_options, short
from sglang_mezo_plugin.errors import UserError

TITLES = {
    "train": ["model", "data", "method", "adapter (--mode lora)", "run"],
    "evolve": ["server", "data", "method", "adapter", "run"],
    "evaluate": ["model", "data", "evaluation"],
    "export": [],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_lists_each_option(command: str) -> None:
    module, options, _ = COMMANDS[command]
    text = make_parser(options, module.__doc__).format_help()
    _, *lines = text.split("\noptions:\n")[1].splitlines()
    assert [line[:-1] for line in lines if line.endswith(":") and line[0] != " "] == TITLES[command]
    spelled = [
        [word.split()[0] for word in line.strip().split(", ")]
        for line in lines
        if line.startswith("  --")
        for line in [line.split("  ", 2)[1]]
    ]
    declared = [field for field in fields(options) if field.init]
    assert spelled == [list(field.metadata["flags"] or [flag(field.name)]) for field in declared]


@pytest.mark.parametrize(
    ("command", "words", "name", "value"),
    [
        ("train", ["--tp", "2"], "tp_size", 2),
        ("train", ["--tensor-parallel-size", "2"], "tp_size", 2),
        ("train", ["--dp", "2"], "dp_size", 2),
        ("train", ["--data-parallel-size", "2"], "dp_size", 2),
        ("train", ["--lora-target-modules", "all-linear"], "lora_target_modules", "all-linear"),
        ("train", ["--lora-target-modules", "q_proj", "v_proj"], "lora_target_modules", ["q_proj", "v_proj"]),
        ("train", ["--mode", "full"], "learning_rate", 1e-6),
        ("train", ["--mode", "full"], "eps", 1e-3),
        ("train", ["--mode", "full", "--eps", "0.5"], "eps", 0.5),
        ("evolve", ["--sigma", "0.5"], "eps", 0.5),
        ("evolve", ["--eps", "0.5"], "eps", 0.5),
        ("evolve", ["--generations", "3"], "steps", 3),
        ("evolve", ["--stop", "x", "y"], "stop", ["x", "y"]),
        ("evolve", [], "mode", "lora"),
    ],
)
def test_words(command: str, words: list[str], name: str, value: object) -> None:
    assert getattr(COMMANDS[command].read(*words), name) == value


def test_what_is_no_option_of_ours_is_left_for_sglang() -> None:
    words = ["--model-path", "M", "--train-file", "T", "--output-dir", "O", "--mode", "lora"]
    options, rest = read_options(
        TrainOptions, "a\n\nb", [*words, "--attention-backend", "triton", "--step", "3"]
    )
    assert rest == ["--attention-backend", "triton", "--step", "3"]  # no abbreviation of --steps
    assert options.steps == 20_000
    with pytest.raises(UserError, match=r"^unrecognised argument 'stray': see --help$"):
        read_options(TrainOptions, "a\n\nb", [*words, "stray"])


def test_export_leaves_nothing_for_sglang(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        COMMANDS["export"].module.main(["--run", "R", "--output-dir", "O", "--stepz", "3"])
    assert capsys.readouterr().err == "error: unrecognized arguments: --stepz 3: see --help\n"


@pytest.mark.parametrize(
    ("value", "text"), [(16, "16"), (600.0, "600"), (0.0, "0"), (1e-2, "1e-2"), (5e-4, "5e-4"), ("a", "a")]
)
def test_defaults_are_written_as_people_do(value: object, text: str) -> None:
    assert short(value) == text

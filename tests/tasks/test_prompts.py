"""Text around prompts: templates and solved examples."""

import re

import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Record
from sglang_mezo_plugin.tasks.in_context import with_demonstrations
from sglang_mezo_plugin.tasks.prompts import with_template

RECORDS = [Record("one", (" a", " b"), 1, "here"), Record("{} {0} {x}", (" c",), 0, "there")]


@pytest.mark.parametrize(
    ("template", "prompts"),
    [
        ("{} It was", ["one It was", "{} {0} {x} It was"]),
        ("{}", ["one", "{} {0} {x}"]),
        ("{0} {x} { {{}} }", ["{0} {x} { {one} }", "{0} {x} { {{} {0} {x}} }"]),
        (r"\1\g<0>{}%s", [r"\1\g<0>one%s", r"\1\g<0>{} {0} {x}%s"]),
    ],
)
def test_template(template: str, prompts: list[str]) -> None:
    expected = [
        Record(prompt, r.options, r.label, r.where) for prompt, r in zip(prompts, RECORDS, strict=True)
    ]
    assert with_template(RECORDS, template) == expected


@pytest.mark.parametrize(
    ("template", "found"), [("It was", 0), ("", 0), ("{ }", 0), ("{}{}", 2), ("{} a {} b {}", 3)]
)
def test_refused_templates(template: str, found: int) -> None:
    message = f"--prompt-template {template!r} holds {{}} {found} times: write it once"
    with pytest.raises(UserError, match=re.escape(message)):
        with_template(RECORDS, template)


def test_demonstrations() -> None:
    shown = [Record("p", ("x", " y"), 1), Record("q", (" z",), 0)]
    assert with_demonstrations(RECORDS, shown) == [
        Record("p y\n\nq z\n\none", (" a", " b"), 1, "here"),
        Record("p y\n\nq z\n\n{} {0} {x}", (" c",), 0, "there"),
    ]
    assert [r.prompt for r in with_demonstrations(RECORDS[:1], shown[:1], separator=" | ")] == ["p y | one"]
    assert with_demonstrations(RECORDS, []) == RECORDS

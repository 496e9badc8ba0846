"""Rewards: how --reward finds them, and that their faults name reward, record and cure."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.rewards.loading import CheckedReward, exact_match, load_reward

WHERE = "train.jsonl line 3"


def refused(call: Callable[[], object], *parts: str) -> None:
    with pytest.raises(UserError) as raised:
        call()
    assert "\n" not in str(raised.value)
    for part in parts:
        assert part in str(raised.value)


@pytest.mark.parametrize(
    ("completion", "answer", "expected"),
    [
        ("Paris", "Paris", 1.0),
        (" Paris\n", "Paris ", 1.0),
        ("paris", "Paris", 0.0),
        ("Paris.", "Paris", 0.0),
        ("", "Paris", 0.0),
        ("", " ", 1.0),
        ("a  b", "a b", 0.0),
    ],
)
def test_exact_match(completion: str, answer: str, expected: float) -> None:
    reward = load_reward("sglang_mezo_plugin.rewards:exact_match")
    assert reward("p", completion, {"answer": answer}, WHERE) == expected


@pytest.mark.parametrize("record", [{"answer": 24}, {"answer": None}, {"completion": "24"}])
def test_exact_match_needs_text(record: dict[str, Any]) -> None:
    reward = CheckedReward("m:exact", exact_match)
    shown = record.get("answer")
    refused(
        lambda: reward("p", "24", record, WHERE),
        f'{WHERE}: reward m:exact: "answer" must be text, not {shown}: ',
        "quotes",
    )


def test_a_reward_gets_what_it_is_promised() -> None:
    seen: list[object] = []

    def reward(*arguments: object) -> float:
        seen.extend(arguments)
        return 0.25

    assert CheckedReward("m:f", reward)("p", "c", {"id": 7}, WHERE) == 0.25
    assert seen == ["p", "c", {"id": 7}]


@pytest.mark.parametrize("value", [2, True, -0.5, np.float32(0.5), np.int64(3), Fraction(1, 4), -1.7e308])
def test_numbers_of_any_kind_become_floats(value: Any) -> None:
    result = CheckedReward("m:f", lambda *_: value)("p", "c", {}, WHERE)
    assert (type(result), result) == (float, float(value))


BAD_VALUES = [math.nan, math.inf, -math.inf, np.float32("nan"), 10**400, -(10**400), None, "1.0", 1j, [1.0]]


@pytest.mark.parametrize("value", [*BAD_VALUES, Decimal(1)], ids=lambda value: repr(value)[:12])
def test_other_values_are_refused(value: Any) -> None:
    refused(
        lambda: CheckedReward("m:f", lambda *_: value)("p", "the completion", {}, WHERE),
        f"{WHERE}: reward m:f returned {repr(value)[:8]}",
        ", no finite number, on the completion 'the completion': mend the reward or the record",
    )


@pytest.mark.parametrize(
    "error", [KeyError("target"), ValueError("two\nlines\n" + 999 * "long "), RecursionError()]
)
def test_a_reward_that_raises(error: Exception) -> None:
    def reward(*_: object) -> float:
        raise error

    checked = CheckedReward("m:f", reward)
    kind = type(error).__name__
    refused(
        lambda: checked("p", "one\ntwo" * 9000, {}, WHERE),
        f"{WHERE}: reward m:f raised {kind} (",
        " at ",
        __file__,
    )
    with pytest.raises(UserError) as raised:
        checked("p", "c", {}, WHERE)
    assert raised.value.__cause__ is error and len(str(raised.value)) < 600


def test_ctrl_c_is_no_fault_of_the_reward() -> None:
    def reward(*_: object) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CheckedReward("m:f", reward)("p", "c", {}, WHERE)


MODULES = {
    "good_rewards.py": "LIMIT = 3\nclass Length:\n    def __call__(self, prompt, completion, record):\n"
    "        return len(completion)\nlength = Length()\n",
    "typo_rewards.py": "def f(:\n",
    "missing_rewards.py": "import no_such_dependency\n",
    "failing_rewards.py": "\n\nraise OSError('no data\\nat all')\n",
    "script_rewards.py": "import sys\nsys.exit('usage: ...')\n",
}


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in MODULES.items():
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("modules")
def test_any_callable_of_a_module() -> None:
    assert load_reward("good_rewards:length")("p", "four", {}, WHERE) == 4.0


REFUSED = [
    (
        "exact_match",
        "--reward exact_match: write module:function, as in sglang_mezo_plugin.rewards:exact_match",
    ),
    (":f", "--reward :f: write module:function"),
    ("m:", "--reward m:: write module:function"),
    ("no_such_rewards:f", "--reward no_such_rewards:f: No module named 'no_such_rewards': check the name"),
    (
        "good_rewards.py:length",
        "No module named 'good_rewards.py'; 'good_rewards' is not a package: check the",
    ),
    ("good_rewards:lenght", "--reward good_rewards:lenght: good_rewards has no lenght: define it there"),
    (
        "good_rewards:LIMIT",
        "--reward good_rewards:LIMIT: LIMIT is 3, which cannot be called: name a function",
    ),
    ("typo_rewards:f", r"raised SyntaxError (invalid syntax (typo_rewards.py, line 1)): mend that module"),
    (
        "missing_rewards:f",
        "importing missing_rewards raised ModuleNotFoundError (No module named 'no_such_dep",
    ),
    ("failing_rewards:f", "importing failing_rewards raised OSError (no data at all) at "),
    ("failing_rewards:f", "failing_rewards.py line 3: mend that module"),
    ("script_rewards:f", "importing script_rewards raised SystemExit (usage: ...) at "),
]


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(("name", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_names_that_lead_nowhere(name: str, message: str) -> None:
    refused(lambda: load_reward(name), message, f"--reward {name}: ")

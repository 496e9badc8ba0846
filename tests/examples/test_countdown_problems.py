"""Countdown problems: solvable, distinct, the same for ever; and the command that writes them."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import problems as countdown_problems
import pytest
from problems import Problem, problems

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.rewards.countdown import is_solution, prompt_for

FIRST = [
    Problem((79, 85, 26, 65), 73, "(((79 - 65) + 85) - 26)"),
    Problem((78, 54, 55), 77, "((78 + 54) - 55)"),
]
PREPARE = Path(__file__).resolve().parents[2] / "examples" / "countdown" / "prepare.py"


def values(numbers: tuple[Fraction, ...]) -> Iterator[Fraction]:
    """All values that expressions of all the numbers have."""
    if len(numbers) == 1:
        yield numbers[0]
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers[:i]):
            rest = numbers[:j] + numbers[j + 1 : i] + numbers[i + 1 :]
            for value in {a + b, a - b, b - a, a * b, *([a / b] if b else []), *([b / a] if a else [])}:
                yield from values((*rest, value))


def test_the_solver_itself() -> None:
    """8 / (3 - 8/3) is 24; no expression of 1, 1, 1 and 1 is."""
    assert 24 in values(tuple(map(Fraction, (3, 3, 8, 8))))
    assert 24 not in values((Fraction(1),) * 4)


def test_all_are_solvable() -> None:
    drawn = list(islice(problems(7), 1000))
    for problem in drawn:
        assert len(problem.numbers) in (3, 4)
        assert all(1 <= number <= 99 for number in problem.numbers) and 10 <= problem.target <= 100
        assert problem.target in values(tuple(map(Fraction, problem.numbers)))
        assert is_solution(problem.solution, problem.numbers, problem.target)
    used = Counter(sign for problem in drawn for sign in problem.solution if sign in "+-*/")
    assert min(used.values()) > 50 and len(used) == 4


def test_none_comes_again_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(countdown_problems, "NUMBERS", range(1, 6))
    drawn = [(tuple(sorted(problem.numbers)), problem.target) for problem in islice(problems(0), 200)]
    assert len(set(drawn)) == 200


def test_known_first_problem() -> None:
    assert list(islice(problems(0), 2)) == FIRST
    assert next(problems(1)) != FIRST[0]


def test_prompt() -> None:
    """As in the data of Qiu et al. (2025): numpy's brackets, and no space after "the answer."."""
    assert prompt_for((83, 78, 1, 39), 82) == (
        "You are a helpful assistant. You first think about the reasoning process in your mind and then "
        "provide the user with the answer.Using the numbers [83 78  1 39], create an equation that equals "
        "82. You can use basic arithmetic operations (+, -, *, /) and each number can only be used once. "
        "Show your work in <think> </think> tags. And return the final answer in <answer> </answer> tags, "
        "for example <answer> (1 + 2) / 3 </answer>.Let me solve this step by step.\n<think>"
    )


def test_no_seed_below_zero() -> None:
    """Random(-1) is Random(1)."""
    with pytest.raises(UserError, match="--seed must be 0 or more, not -1"):
        next(problems(-1))


def prepare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(PREPARE), "--output-dir", str(folder), *arguments]
    path = {"PYTHONPATH": str(PREPARE.parents[2]), "PYTHONHASHSEED": "random"}
    return subprocess.run(command, env=os.environ | path, capture_output=True, text=True)


def test_files(tmp_path: Path) -> None:
    done = prepare(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "countdown"
    assert sorted(path.name for path in folder.iterdir()) == ["test.jsonl", "train.jsonl"]
    texts = [(folder / f"{name}.jsonl").read_text() for name in ("test", "train")]
    rows = [[json.loads(line) for line in text.splitlines()] for text in texts]
    assert [len(part) for part in rows] == [2000, 200]
    expected = [json.loads(json.dumps(problem.record())) for problem in islice(problems(0), 2200)]
    assert rows[0] + rows[1] == expected
    assert rows[0][0] == {
        "prompt": prompt_for(FIRST[0].numbers, FIRST[0].target),
        "numbers": list(FIRST[0].numbers),
        "target": FIRST[0].target,
        "solution": FIRST[0].solution,
    }

    assert prepare(tmp_path, "--train-size", "300").returncode == 0
    assert (folder / "test.jsonl").read_text() == texts[0]
    assert (folder / "train.jsonl").read_text().startswith(texts[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train-size", "0"], "--train-size must be 1 or more, not 0"),
        (["--test-size", "-2"], "--test-size must be 1 or more, not -2"),
        (["--seed", "-1"], "--seed must be 0 or more, not -1"),
        ([], "--output-dir {tmp}/file/countdown: Not a directory: choose another folder"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "file").touch()
    done = prepare(tmp_path / "file", *arguments)
    assert (done.returncode, done.stderr) == (2, f"error: {message.format(tmp=tmp_path)}\n")

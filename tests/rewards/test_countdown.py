"""The checker of Countdown answers, case by case; its reading of tags against the field's own patterns."""

import random
import re
import time
from fractions import Fraction
from typing import Any

import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.rewards.arithmetic import MAX_LENGTH, evaluate, tokenize
from sglang_mezo_plugin.rewards.countdown import accuracy, format_score, is_solution, last_answer, prompt_for
from sglang_mezo_plugin.rewards.loading import load_reward

N = (2, 3, 4)  # the numbers of most cases, with target 24
ONES = [1] * 501
CASES: list[tuple[str, tuple[int, ...] | list[int], int, bool]] = [
    ("2*3*4", N, 24, True),
    ("  ( 4 * 2 ) * 3 ", N, 24, True),
    ("\n2 * 3 * 4\n", N, 24, True),
    ("((((2))*(3)))*(4)", N, 24, True),
    ("2 × 3 x 4", N, 24, True),  # noqa: RUF001
    ("8 − 6 ÷ 3", (3, 6, 8), 6, True),  # noqa: RUF001
    ("3+3*3/3-3", (3,) * 5, 3, True),
    ("9-3-2", (2, 3, 9), 4, True),
    ("16/4/2", (2, 4, 16), 2, True),
    ("9-(3-2)", (2, 3, 9), 8, True),
    ("8/(3-8/3)", (3, 3, 8, 8), 24, True),
    ("(1/3)*3*7", (1, 3, 3, 7), 7, True),
    ("2-5", (2, 5), -3, True),
    ("0*7+5", (0, 5, 7), 5, True),
    ("24", (24,), 24, True),
    ("1" + "+1" * 499, ONES[:500], 500, True),  # 999 characters
    ("1" + "+1" * 500, ONES, 501, False),  # 1,001
    ("2+3*4", N, 24, False),  # 14
    ("2*3*4", N, 25, False),
    ("1*100000/99999", (1, 99999, 100000), 1, False),  # 1.00001
    ("2*2*3*4/2", N, 24, False),  # a number used twice
    ("2*12", N, 24, False),
    ("2*3", N, 6, False),  # one left out
    ("23*4", N, 92, False),
    ("", N, 24, False),
    ("", (), 0, False),
    ("   ", N, 24, False),
    ("()", N, 24, False),
    ("2*3*4=24", N, 24, False),
    ("=24", N, 24, False),
    ("The answer is 2*3*4", N, 24, False),
    ("2*3*4.", N, 24, False),
    ("2.0*3*4", N, 24, False),
    ("2,3*4", N, 92, False),
    ("2 3 4", N, 24, False),
    ("(2)(3)(4)", N, 24, False),
    ("2(3)*4", N, 24, False),
    ("02*3*4", N, 24, False),
    ("02*3*4", (0, *N), 24, False),
    ("00+5", (0, 5), 5, False),
    ("-2+26", (2, 26), 24, False),  # signs
    ("+2*3*4", N, 24, False),
    ("2--22", (2, 22), 24, False),
    ("2*3*4*", N, 24, False),
    ("*2*3*4", N, 24, False),
    ("(2*3*4", N, 24, False),
    ("2*3*4)", N, 24, False),
    ("(2*3*)4", N, 24, False),
    ("4//3+2", N, 3, False),
    ("2**3*4", N, 32, False),
    ("9**9**9**9", (9,) * 4, 1, False),
    ("2^3*4", N, 32, False),
    ("2e3*4", N, 24, False),
    ("2/0", (0, 2), 0, False),
    ("2/(3-3)", (2, 3, 3), 0, False),
    ("٢*٣*٤", N, 24, False),  # other digits
    ("２*３*４", N, 24, False),  # noqa: RUF001
    ("2²*3*4", N, 48, False),
    ("1٢*2", (2, 12), 24, False),  # int() reads it as 12
    ("2*3\t*4", N, 24, False),
    ("2\n*3*4", N, 24, False),
    ("__import__('os').abort()", N, 24, False),
    ("<answer>2*3*4", N, 24, False),
    ("(" * 10_000, N, 24, False),
    ("(" * 10_000 + "2*3*4" + ")" * 10_000, N, 24, False),
    ("(" * 497 + "2*3*4" + ")" * 497, N, 24, True),
    ("9" * 1_000_000, N, 24, False),
    ("9" * MAX_LENGTH, (10**MAX_LENGTH - 1,), 10**MAX_LENGTH - 1, True),
    ("*".join(["9" * 99] * 10), (int("9" * 99),) * 10, 9, False),
    ("2*" * 1_000_000, N, 24, False),
    (" " * 10_000 + "2*3*4", N, 24, True),
]


@pytest.mark.parametrize(("answer", "numbers", "target", "expected"), CASES, ids=[c[0][:24] for c in CASES])
def test_answers(answer: str, numbers: Any, target: int, expected: bool) -> None:
    """Each within 10 ms, the best of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert is_solution(answer, numbers, target) is expected
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01


def test_values_are_those_of_python() -> None:
    """3,000 random expressions, with Fraction in place of integers, evaluated by Python itself."""
    draw = random.Random(3)

    def expression(depth: int) -> str:
        if depth == 0 or draw.random() < 0.2:
            return str(draw.randrange(12))
        inner = f"{expression(depth - 1)}{draw.choice('+-*/')}{expression(depth - 1)}"
        return f"({inner})" if draw.random() < 0.4 else inner

    for _ in range(3000):
        text = expression(4)
        try:
            expected = eval(re.sub(r"(\d+)", r"Fraction(\1)", text), {"Fraction": Fraction})
        except ZeroDivisionError:
            with pytest.raises(ZeroDivisionError):
                evaluate(tokenize(text))
        else:
            assert evaluate(tokenize(text)) == expected


PIECES = ("<think>", "</think>", "<answer>", "</answer>", "\n", "1+2", "</think>\n<answer>")


def test_tags_are_read_as_the_field_reads_them() -> None:
    """The patterns of countdown_task.py (Qiu et al. 2025), over 50,000 random texts of tags."""
    draw = random.Random(5)
    found = set()
    for _ in range(50_000):
        text = "".join(draw.choices(PIECES, k=draw.randrange(9)))
        answers = re.findall(r"<answer>(.*?)<\/answer>", text, re.DOTALL)
        assert last_answer(text) == (answers[-1] if answers else None)
        response = f"<think>{text}"
        if re.match(r"^<think>.*?<\/think>\n<answer>.*?<\/answer>$", response, re.DOTALL):
            expected = 1.0
        else:
            expected = 0.1 if re.search(r"<think>.*?<\/think>", response, re.DOTALL) else 0.0
            expected += 0.5 if answers else 0.0
        assert format_score("Let me solve this step by step.\n<think>", text) == expected
        assert format_score("Think first.", response) == expected
        found.add(expected)
    assert found == {0.0, 0.1, 0.5, 0.6, 1.0}
    assert format_score("Think first.", "1+2</think>\n<answer>3</answer>") == 0.5  # opened by neither


RIGHT = "<answer>(4 * 2) * 3</answer>"
REWARDS = [
    (f"4 * 2 is 8.</think>\n{RIGHT}", 1.1),
    (f"</think>\n{RIGHT}\n", 1.1),
    (f"</think>{RIGHT}", 1.06),
    (f"</think>\n{RIGHT} Done.", 1.06),
    (RIGHT, 1.05),
    (f"<answer>1</answer> no: {RIGHT}", 1.05),
    (f"{RIGHT} or <answer>1</answer>", 0.05),
    (f"<answer>{RIGHT}</answer>", 0.05),
    ("4 * 2 is 8.</think>\n<answer>4 * 2</answer>", 0.1),
    ("</think>\n<answer></answer>", 0.1),
    ("</think>\n<answer>(4 * 2) * 3", 0.1 * 0.1),
    ("(4 * 2) * 3", 0.0),
    ("", 0.0),
    ("<answer>" * 100_000, 0.0),
    ("</answer>" * 100_000 + RIGHT, 1.05),
    ("<answer></answer>" * 100_000, 0.05),
    ("<think>" * 100_000, 0.0),
]


@pytest.mark.parametrize(("completion", "expected"), REWARDS, ids=[repr(c[:40]) for c, _ in REWARDS])
def test_rewards(completion: str, expected: float) -> None:
    reward = load_reward("sglang_mezo_plugin.rewards.countdown:reward")
    record, prompt = {"numbers": list(N), "target": 24}, prompt_for(N, 24)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        assert reward(prompt, completion, record, "line 1") == expected
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.01
    assert accuracy(prompt, completion, record) == (expected >= 1)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"target": 24}, '"numbers" must be a list of integers from 0, not None: mend'),
        ({"numbers": [2, True], "target": 24}, '"numbers" must be a list of integers from 0, not [2, True]'),
        ({"numbers": [2, -3], "target": 24}, '"numbers" must be a list of integers from 0, not [2, -3]'),
        ({"numbers": "23", "target": 24}, "\"numbers\" must be a list of integers from 0, not '23'"),
        ({"numbers": [24], "target": "24"}, "\"target\" must be an integer, not '24': mend or drop"),
        ({"numbers": [24]}, '"target" must be an integer, not None'),
    ],
)
def test_records_that_are_no_problem(record: dict[str, Any], message: str) -> None:
    name = "sglang_mezo_plugin.rewards.countdown:reward"
    with pytest.raises(UserError, match=re.escape(f"t.jsonl line 4: reward {name}: {message}")):
        load_reward(name)("p", "c", record, "t.jsonl line 4")

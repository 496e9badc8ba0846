"""Countdown: reach a target with + - * / from numbers of which each is used exactly once.

Prompt and reward are those of "Evolution Strategies at Scale" (Qiu et al. 2025, arXiv 2509.24372), which has
the prompt from TinyZero (Pan et al. 2025) and the reward from GRPO-Zero; in their code, countdown_task.py.

    reward = answer + 0.1 * format

answer   1.0 if the text in the last <answer>...</answer> is an expression of the numbers, each exactly once,
         whose value is the target; else 0.0
format   1.0 if the response is <think>...</think>, a newline, <answer>...</answer>, and nothing else;
         else 0.1 if there is a <think>...</think> anywhere, plus 0.5 if there is an <answer>...</answer>

So a reward is 0, 0.01, 0.05, 0.06 or 0.1, and 1 more for a right answer, which has at least 0.05 for its
format. The prompt ends in <think>, and the response begins with it: it is put before the completion, unless
the prompt is another one that does not open it. Of nested or repeated tags, an <answer> reaches up to the
first </answer>, and a text from the first <answer> on: "<answer>1<answer>2</answer>" holds "1<answer>2".

Where theirs runs eval on the answer and takes what is within 1e-5 of the target, here values are exact
(`arithmetic`), and these differ:
- accepted: the typographic minus, times and division signs, x for times, and whitespace around the answer
- refused: signs of numbers ("-3 + 8"), //, **, and answers of more than 1,000 characters
Refused in both: decimals, commas, "= 24", leading zeros, "2(3)", division by zero, other scripts' digits.
"""

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.rewards.arithmetic import NotArithmetic, evaluate, tokenize

FORMAT_WEIGHT = 0.1
# No space after "answer.": so it is in the prompts of the paper.
_PROMPT = (
    "You are a helpful assistant. You first think about the reasoning process in your mind and then provide "
    "the user with the answer.Using the numbers [{numbers}], create an equation that equals {target}. "
    "You can use basic arithmetic operations (+, -, *, /) and each number can only be used once. Show your "
    "work in <think> </think> tags. And return the final answer in <answer> </answer> tags, for example "
    "<answer> (1 + 2) / 3 </answer>.Let me solve this step by step.\n<think>"
)


def prompt_for(numbers: Sequence[int], target: int) -> str:
    """Return the paper's prompt, numbers as numpy prints them: [83 78  1 39]."""
    width = max(len(str(number)) for number in numbers)
    return _PROMPT.format(numbers=" ".join(str(number).rjust(width) for number in numbers), target=target)


def reward(prompt: str, completion: str, record: Mapping[str, Any]) -> float:
    """Return answer + 0.1 * format; see `accuracy` for the record's fields."""
    return accuracy(prompt, completion, record) + FORMAT_WEIGHT * format_score(prompt, completion)


def accuracy(prompt: str, completion: str, record: Mapping[str, Any]) -> float:
    """Return 1.0 if the completion's last answer is right, else 0.0: what is reported of test problems.

    record: "numbers", a list of integers from 0, and "target", an integer. UserError if they are not so.
    """
    numbers, target = _problem(record)
    answer = last_answer(completion)
    return float(answer is not None and is_solution(answer, numbers, target))


def format_score(prompt: str, completion: str) -> float:
    """Return 1.0 for exactly <think>...</think>, newline, <answer>...</answer>; else 0.0, 0.1, 0.5 or 0.6."""
    response = f"<think>{completion}" if prompt.endswith("<think>") else completion
    if _is_whole(response):
        return 1.0
    return 0.1 * _has_thoughts(response) + 0.5 * (last_answer(response) is not None)


def last_answer(text: str) -> str | None:
    """Return what the last <answer>...</answer> holds, found in linear time; None without one."""
    start = text.rpartition("</answer>")[0].rfind("<answer>")
    if start < 0:
        return None
    first_since_closed = text.find("<answer>", text.rfind("</answer>", 0, start) + 1)
    return text[first_since_closed + len("<answer>") : text.find("</answer>", start)]


def is_solution(answer: str, numbers: Sequence[int], target: int) -> bool:
    """Say whether an expression has each of the numbers exactly once, and exactly the target as its value."""
    try:
        tokens = tokenize(answer.strip())
        used = [token for token in tokens if isinstance(token, int)]
        return sorted(used) == sorted(numbers) and evaluate(tokens) == target
    except (NotArithmetic, ZeroDivisionError):
        return False


def _is_whole(response: str) -> bool:
    head, _, answer = response.removesuffix("\n").partition("</think>\n<answer>")
    return head.startswith("<think>") and answer.endswith("</answer>")


def _has_thoughts(response: str) -> bool:
    return "</think>" in response.partition("<think>")[2]


def _problem(record: Mapping[str, Any]) -> tuple[list[int], int]:
    numbers, target = record.get("numbers"), record.get("target")
    if not isinstance(numbers, list) or not all(type(number) is int and number >= 0 for number in numbers):
        raise UserError(
            f'"numbers" must be a list of integers from 0, not {reprlib.repr(numbers)}: '
            "mend or drop this record"
        )
    if type(target) is not int:
        raise UserError(f'"target" must be an integer, not {reprlib.repr(target)}: mend or drop this record')
    return numbers, target

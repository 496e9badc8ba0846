"""Rewards: what a completion is worth, by a function that --reward names as module:function."""

import importlib
import math
import reprlib
import textwrap
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from sglang_mezo_plugin.errors import UserError

Reward = Callable[[str, str, Mapping[str, Any]], float]
"""reward(prompt, completion, record): a finite number, the higher the better.

prompt, completion: text, the completion without the prompt. record: the row that the prompt is from, by field
name. Where a record is not what the reward needs, it raises a UserError, one line that ends in the cure.
"""


def exact_match(prompt: str, completion: str, record: Mapping[str, Any]) -> float:
    """Return 1.0 if the completion is the record's "answer", but for whitespace around either, else 0.0."""
    answer = record.get("answer")
    if not isinstance(answer, str):
        raise UserError(f'"answer" must be text, not {reprlib.repr(answer)}: add it, or put it in quotes')
    return float(completion.strip() == answer.strip())


@dataclass(frozen=True)
class CheckedReward:
    """A reward whose every fault is a UserError that names it and the record. name: for messages."""

    name: str
    function: Reward

    def __call__(self, prompt: str, completion: str, record: Mapping[str, Any], where: str) -> float:
        """Return the reward. where: file and line of the record, or its id.

        UserError if the function raises anything, or returns what is no finite real number.
        """
        try:
            value = self.function(prompt, completion, record)
        except UserError as error:
            raise UserError(f"{where}: reward {self.name}: {error}") from error
        except Exception as error:
            raise self._fault(f"raised {_described(error)}", completion, where) from error
        if not isinstance(value, Real) or not _is_finite(value):
            raise self._fault(f"returned {reprlib.repr(value)}, no finite number,", completion, where)
        return float(value)

    def _fault(self, what: str, completion: str, where: str) -> UserError:
        return UserError(
            f"{where}: reward {self.name} {what} on the completion {reprlib.repr(completion)}: "
            "mend the reward or the record"
        )


def load_reward(name: str) -> CheckedReward:
    """Import the reward "module:function". UserError unless there is such a module, and a function in it."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise UserError(
            f"--reward {name}: write module:function, as in sglang_mezo_plugin.rewards:exact_match"
        )
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a script may end itself as it is imported
        # A module that this one imports may be missing too, which is another matter.
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"--reward {name}: {error}: check the name, or start in the folder where the module lies"
            ) from error
        raise UserError(
            f"--reward {name}: importing {module_name} raised {_described(error)}: mend that module"
        ) from error
    function = getattr(module, function_name, None)
    if function is None:
        raise UserError(f"--reward {name}: {module_name} has no {function_name}: define it there")
    if not callable(function):
        raise UserError(
            f"--reward {name}: {function_name} is {reprlib.repr(function)}, which cannot be called: "
            "name a function of (prompt, completion, record)"
        )
    return CheckedReward(name, function)


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _described(error: BaseException) -> str:
    """Return type, message and place of an error in one line. A SyntaxError's message has its place."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = "" if frame.filename.startswith("<") else f" at {frame.filename} line {frame.lineno}"
    return f"{type(error).__name__} ({textwrap.shorten(str(error), 200)}){place}"

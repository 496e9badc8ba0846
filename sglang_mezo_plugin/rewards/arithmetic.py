"""Exact values of expressions that a model wrote: + - * / and brackets over decimal integers.

Nothing is handed to Python's own parser, and no text costs more than about a millisecond: its length is
bounded, there is no recursion, no exponent, and no number comes from anywhere but the text.
"""

import operator
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

MAX_LENGTH = 1000  # characters; int() itself refuses 4,300 digits
OPERATIONS: dict[str, Callable[[Fraction, Fraction], Fraction]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}

_PRECEDENCE = {"+": 1, "-": 1, "*": 2, "/": 2}
_SIGNS = str.maketrans(
    {"\N{MINUS SIGN}": "-", "\N{MULTIPLICATION SIGN}": "*", "x": "*", "\N{DIVISION SIGN}": "/"}
)
_TOKEN = re.compile(r"0|[1-9][0-9]*|[-+*/()]")  # [0-9], for \d has the digits of all scripts


class NotArithmetic(ValueError):
    """A text that is no expression."""


def tokenize(text: str) -> list[int | str]:
    """Return the numbers of an expression as integers, its operators and brackets as "+-*/()".

    The typographic minus, times and division signs, and x for times, are read as - * /. Digits are ASCII. A
    leading zero is a number of its own, so that `evaluate` refuses "07". Spaces may stand between tokens.
    NotArithmetic for a text of more than MAX_LENGTH characters, or with anything else in it.
    """
    if len(text) > MAX_LENGTH:
        raise NotArithmetic(f"more than {MAX_LENGTH} characters")
    tokens: list[int | str] = []
    text = text.translate(_SIGNS)
    position = 0
    while position < len(text):
        if text[position] == " ":
            position += 1
            continue
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotArithmetic(f"{text[position]!r} is no part of an expression")
        token = match.group()
        tokens.append(int(token) if token.isdigit() else token)
        position = match.end()
    return tokens


def evaluate(tokens: Sequence[int | str]) -> Fraction:
    """Return the value of an expression: * and / before + and -, otherwise from left to right.

    Every operator stands between two operands: there are no signs, and two numbers side by side, or a bracket
    beside a number, are no product. NotArithmetic if it is not so; ZeroDivisionError if it divides by zero.
    """
    values: list[Fraction] = []
    pending: list[str] = []  # operators whose right operand is not complete, and open brackets

    def apply_down_to(precedence: int) -> None:
        while pending and _PRECEDENCE.get(pending[-1], 0) >= precedence:
            right = values.pop()
            values.append(OPERATIONS[pending.pop()](values.pop(), right))

    operand_is_next = True
    for token in tokens:
        if operand_is_next and isinstance(token, int):
            values.append(Fraction(token))
            operand_is_next = False
        elif operand_is_next and token == "(":
            pending.append(token)
        elif not operand_is_next and token in _PRECEDENCE:
            apply_down_to(_PRECEDENCE[token])
            pending.append(token)
            operand_is_next = True
        elif not operand_is_next and token == ")":
            apply_down_to(1)
            if not pending:
                raise NotArithmetic("a bracket is closed that was not opened")
            pending.pop()
        else:
            raise NotArithmetic(f"{token!r} cannot stand where it does")
    if operand_is_next:
        raise NotArithmetic("the last operand is missing")
    apply_down_to(1)
    if pending:
        raise NotArithmetic("a bracket is not closed")
    return values.pop()

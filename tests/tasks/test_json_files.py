"""JSON files: in which forms rows stand in them, and what is refused with which line."""

import json
import re
import sys
from pathlib import Path

import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.files import file_rows

ROWS = [{"answer": "02116", "on": "2024-05-01"}, {"answer": "2116", "on": "é", "n": 7}]
FILLED = [{**ROWS[0], "n": None}, ROWS[1]]
DIGITS = b"1" * (sys.get_int_max_str_digits() + 1)
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        "\ufeff \n" + json.dumps(ROWS, indent=2, ensure_ascii=False) + "\n",
        json.dumps({"version": "1", "data": ROWS}, indent=1),
        json.dumps({"data": ROWS}),
        "".join(f"{json.dumps(row)}\n\n" for row in ROWS),
    ],
    ids=["array", "indented", "data", "one line", "lines"],
)
def test_forms(tmp_path: Path, content: str) -> None:
    """Text stays text: neither digits nor dates are read in it. Each row has the fields of all."""
    path = tmp_path / "d.json"
    path.write_text(content)
    assert list(file_rows(path)) == [(row, f"{path} row {number}") for number, row in enumerate(FILLED)]


@pytest.mark.parametrize(
    ("content", "rows"), [("[]", []), ("[ ]\n", []), ("", []), ('{"a":\n1}', [{"a": 1}])]
)
def test_few_rows(tmp_path: Path, content: str, rows: list[dict[str, int]]) -> None:
    path = tmp_path / "d.json"
    path.write_text(content)
    assert [row for row, _ in file_rows(path)] == rows


@pytest.mark.parametrize("name", ["d.json", "d.jsonl"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (DIGITS, f"an integer of more than {len(DIGITS) - 1} digits: put it in quotes, or drop it"),
        (DEEP, "brackets within brackets, too deep to be read: drop that field"),
    ],
    ids=["digits", "brackets"],
)
def test_what_python_does_not_read(tmp_path: Path, name: str, value: bytes, message: str) -> None:
    line = b'{"a": %s}\n'
    content = b"".join(line % part for part in (b"1", b"2", value))
    for lines in (content, b"[" + content.replace(b"}\n{", b"},\n{") + b"]"):
        path = tmp_path / name
        path.write_bytes(lines)
        if name == "d.json" or lines is content:
            with pytest.raises(UserError, match=f"^{re.escape(f'{path} line 3: {message}')}$"):
                list(file_rows(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'[{"a": 1},\n{"a": 1}\n{"a": 2}]',
            "line 3: malformed JSON at column 1 (Expecting ',' or ']'): write",
        ),
        (b'[{"a": 1},\n{"a": 1},\n]', "line 3: malformed JSON at column 1 (Expecting value): write one"),
        (
            b'[{"a": 1},\n{"a": x}]',
            "line 2: malformed JSON at column 7 (Expecting value): write one whole array",
        ),
        (b'[{"a": 1}', "line 1: malformed JSON at column 10 (Expecting ',' or ']'): write one whole array"),
        (b'[{"a": 1}]\n[{"a": 1}]', "line 2: text after the array: put all rows into it"),
        (
            b'{"a": 1}\n{"a": x}',
            "line 2: malformed JSON at column 7 (Expecting value): write one whole object",
        ),
        (b'[{"a": 1},\n{"a": "\xe9"}]', "line 2: byte 8 is not UTF-8: save the file as UTF-8"),
        (b'[{"a": 1},\n"text"]', "row 1: 'text' is not a JSON object: write {...}"),
        (b'{"data": [1]}', "row 0: 1 is not a JSON object: write {...}"),
    ],
)
def test_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path} {message}")) as raised:
        list(file_rows(path))
    assert "\n" not in str(raised.value)

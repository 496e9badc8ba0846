"""Records from JSONL and other local files: what is read, and what is refused with which line."""

import json
import re
import sys
from pathlib import Path

import datasets
import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.example import Record
from sglang_mezo_plugin.tasks.fields import Row, Task
from sglang_mezo_plugin.tasks.records import read_records
from sglang_mezo_plugin.tasks.registry import TASKS, find_task

RECORDS, SST2 = find_task("records"), find_task("sst2")
OK = b'{"prompt": "p", "completion": "c"}\n'
PAIR = ("no", "yes")


def write(folder: Path, content: bytes, name: str = "d.jsonl") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def refused(source: str, message: str, task: Task = RECORDS, limit: int | None = None) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        read_records(source, task, limit)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("task", "row", "expected"),
    [
        (RECORDS, {"prompt": "p ", "completion": " c\n"}, ("p ", (" c\n",), 0)),
        (RECORDS, {"prompt": "", "completion": "é😀", "id": 3, "label": None}, ("", ("é😀",), 0)),
        (RECORDS, {"prompt": "p", "options": PAIR, "label": 1}, ("p", PAIR, 1)),
        (RECORDS, {"prompt": "p", "options": PAIR, "label": "no", "completion": None}, ("p", PAIR, 0)),
        (RECORDS, {"prompt": "p", "options": ["1", "0"], "label": "0"}, ("p", ("1", "0"), 1)),
        (RECORDS, {"prompt": "p", "options": ["1", "0"], "label": 0}, ("p", ("1", "0"), 0)),
        (
            SST2,
            {"sentence": " a fine film \n", "label": 1},
            ("a fine film It was", (" terrible", " great"), 1),
        ),
        (SST2, {"text": "dull", "label": 0, "idx": 9}, ("dull It was", (" terrible", " great"), 0)),
        (SST2, {"text": "dull", "label": " 1 "}, ("dull It was", (" terrible", " great"), 1)),
    ],
)
def test_rows(tmp_path: Path, task: Task, row: Row, expected: tuple[str, tuple[str, ...], int]) -> None:
    source = write(tmp_path, json.dumps(row).encode())
    assert read_records(source, task, None) == [Record(*expected, f"{source} line 1")]


def test_lines(tmp_path: Path) -> None:
    """A byte order mark, CRLF, blank lines, U+2028 within a text, no end of line at the end."""
    lines = [
        '\ufeff{"prompt": "1", "completion": "a\u2028b"}\r\n',
        "\r\n",
        "  \n",
        OK.decode(),
        OK.decode().strip(),
    ]
    source = write(tmp_path, "".join(lines).encode())
    records = read_records(source, RECORDS, None)
    assert [record.where for record in records] == [f"{source} line {n}" for n in (1, 4, 5)]
    assert records[0].options == ("a\u2028b",)


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    source = write(tmp_path, OK + OK + b"broken")
    assert len(read_records(source, RECORDS, 2)) == 2
    refused(source, "d.jsonl line 3: malformed JSON", limit=3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"prompt": "p",\n',
            "malformed JSON at column 16 (Expecting property name enclosed in double quotes)",
        ),
        (b"  {'prompt': 1}", "malformed JSON at column 4"),
        (OK.strip() + OK, "malformed JSON at column 35 (Extra data)"),
        (b'{"prompt": "caf\xe9"}', "byte 16 is not UTF-8: save the file as UTF-8"),
        (b"[1, 2]", "[1, 2] is not a JSON object"),
        (b'"text"', "'text' is not a JSON object"),
        (
            b'{"completion": "c"}',
            'no "prompt" among the fields ("completion"): add it, or change --task',
        ),
        (b"{}", 'no "prompt" among the fields (none)'),
        (b'{"prompt": null, "completion": "c"}', 'no "prompt" among the fields'),
        (b'{"prompt": ["p"], "completion": "c"}', "\"prompt\" must be text, not ['p']: put it in quotes"),
        (b'{"prompt": "p"}', 'no "completion" among the fields ("prompt")'),
        (b'{"prompt": "p", "completion": 7}', '"completion" must be text, not 7'),
        (b'{"prompt": "a\\ud83d", "completion": "c"}', "\"prompt\" holds '\\ud83d', half a character"),
        (b'{"prompt": "p", "completion": "c", "options": ["a", "b"]}', 'both "completion" and "options"'),
        (b'{"prompt": "p", "completion": "c", "label": false}', '"label" goes with "options"'),
        (
            b'{"prompt": "p", "options": "ab", "label": 0}',
            "\"options\" must be a list of two texts or more, not 'ab'",
        ),
        (
            b'{"prompt": "p", "options": ["a"], "label": 0}',
            "\"options\" must be a list of two texts or more, not ['a']: for a single",
        ),
        (b'{"prompt": "p", "options": ["a", 2], "label": 0}', "option 1 must be text, not 2"),
        (b'{"prompt": "p", "options": ["a", "b", "a"], "label": 0}', "options 0 and 2 are both 'a'"),
        (b'{"prompt": "p", "options": ["a", "b"]}', 'no "label" among the fields ("prompt", "options")'),
        (
            b'{"prompt": "p", "options": ["a", "b"], "label": 2}',
            '"label" must be an integer from 0 to 1, not 2',
        ),
        (
            b'{"prompt": "p", "options": ["a", "b"], "label": -1}',
            '"label" must be an integer from 0 to 1, not -1',
        ),
        (
            b'{"prompt": "p", "options": ["a", "b"], "label": true}',
            '"label" must be an integer from 0 to 1, not True',
        ),
        (
            b'{"prompt": "p", "options": ["a", "b"], "label": 1.0}',
            '"label" must be an integer from 0 to 1, not 1.0',
        ),
        (b'{"prompt": "p", "options": [" a", "b"], "label": "a"}', "label 'a' is none of the options"),
    ],
)
def test_refused_lines(tmp_path: Path, line: bytes, message: str) -> None:
    refused(write(tmp_path, OK + b"\n" + line), f"d.jsonl line 3: {message}")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 1}, 'no "sentence" among the fields ("label")'),
        ({"sentence": "s", "label": -1}, '"label" must be an integer from 0 to 1, not -1'),
        ({"sentence": "s", "label": True}, '"label" must be an integer from 0 to 1, not True'),
        ({"sentence": "s"}, 'no "label" among the fields ("sentence")'),
        ({"sentence": "s", "label": "2"}, '"label" must be an integer from 0 to 1, not 2'),
        ({"sentence": "s", "label": "1.0"}, "\"label\" must be an integer from 0 to 1, not '1.0'"),
    ],
)
def test_refused_sentiment(tmp_path: Path, row: Row, message: str) -> None:
    refused(write(tmp_path, json.dumps(row).encode()), f"d.jsonl line 1: {message}", SST2)


def test_digits_of_other_scripts_are_no_label() -> None:
    with pytest.raises(UserError, match='"label" must be an integer from 0 to 1'):
        SST2({"sentence": "s", "label": "\N{ARABIC-INDIC DIGIT ONE}"}, "here")


def test_refused_files(tmp_path: Path) -> None:
    refused(str(tmp_path / "none.jsonl"), "none.jsonl: no such file")
    refused(str(tmp_path / "data"), "data: no such file")
    refused("x/" * 5000, "x/: no such file")
    for name in ("data/train.parquet", "train.TSV", "train.jsonl.gz"):
        refused(name, f"{name}: no such file")
    refused(str(tmp_path), "a folder: name a file in it")
    refused(write(tmp_path, b""), "d.jsonl: no records in it")
    refused(write(tmp_path, b"\xef\xbb\xbf\r\n\n"), "d.jsonl: no records in it")
    refused(write(tmp_path, OK), "a limit of 0 records leaves none", limit=0)


@pytest.mark.skipif(sys.platform != "linux", reason="reading its own memory at 0 fails on Linux")
def test_a_file_that_cannot_be_read() -> None:
    refused("/proc/self/mem", "/proc/self/mem: cannot be read (Input/output error)")


def test_unknown_task() -> None:
    assert list(TASKS) == ["records", "sst2"]
    with pytest.raises(UserError, match="no task 'sst-2': --task takes one of records, sst2"):
        find_task("sst-2")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path


def test_other_formats(cache: Path) -> None:
    """In CSV, "none" and "NA" are text, and digits are a label where one is meant."""
    source = write(cache, b'sentence,label\nnone,1\n"a ""b"", c",0\nNA,1\n', "d.csv")
    assert read_records(source, SST2, 3) == [
        Record(f"{text} It was", (" terrible", " great"), label, f"{source} row {i}")
        for i, (text, label) in enumerate([("none", 1), ('a "b", c', 0), ("NA", 1)])
    ]
    source = str(cache / "d.parquet")
    datasets.Dataset.from_list([{"prompt": "p", "options": list(PAIR), "label": "yes"}]).to_parquet(source)
    assert read_records(source, RECORDS, None) == [Record("p", PAIR, 1, f"{source} row 0")]
    refused(write(cache, b"nonsense", "d.parquet"), "d.parquet: `datasets` cannot load it (Parquet ")

"""CSV and TSV files: cells are text, and what is malformed is named by its line."""

import gzip
import re
from pathlib import Path

import pytest

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.tasks.fields import Row
from sglang_mezo_plugin.tasks.files import file_rows


def read(path: Path) -> list[Row]:
    rows = list(file_rows(path))
    assert [where for _, where in rows] == [f"{path} row {number}" for number in range(len(rows))]
    return [row for row, _ in rows]


@pytest.mark.parametrize(
    "cell", ["02116", "2116", "1e3", "2024-05-01", "12:30", "true", "NA", "null", "", " a ", "0x1F", "1.0"]
)
@pytest.mark.parametrize("name", ["d.csv", "D.CSV", "d.tsv"])
def test_text_stays_text(tmp_path: Path, name: str, cell: str) -> None:
    comma = "\t" if "tsv" in name else ","
    path = tmp_path / name
    path.write_text(f"prompt{comma}answer\nx{comma}{cell}\n{cell}{comma}x\n")
    assert read(path) == [{"prompt": "x", "answer": cell}, {"prompt": cell, "answer": "x"}]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b'a,b\n"02116","x ""y"", z"\n', [{"a": "02116", "b": 'x "y", z'}]),
        (b'a,b\r\n"x\r\ny",z\r\n\r\n1,2', [{"a": "x\r\ny", "b": "z"}, {"a": "1", "b": "2"}]),
        (b"\xef\xbb\xbfa,b\r1,\xc3\xa9\r", [{"a": "1", "b": "é"}]),
        ("a,b\nx\u2028y,z\n".encode(), [{"a": "x\u2028y", "b": "z"}]),
        (b"a,b\nx\n", [{"a": "x", "b": None}]),
        (b"a,b\n" + 200_000 * b"x" + b",y\n", [{"a": 200_000 * "x", "b": "y"}]),
    ],
    ids=["quotes", "lines", "old line ends", "separator", "short", "long cell"],
)
def test_csv(tmp_path: Path, content: bytes, rows: list[Row]) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(content)
    assert read(path) == rows


def test_quotes_of_tsv_are_text(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text('sentence\tlabel\n" the film\t1\n"good", they say\t0\n')
    assert read(path) == [
        {"sentence": '" the film', "label": "1"},
        {"sentence": '"good", they say', "label": "0"},
    ]


def test_packed(tmp_path: Path) -> None:
    for name, content in (
        ("d.csv.gz", "a\n1\n"),
        ("d.tsv.gz", "a\n1\n"),
        ("d.json.gz", '[{"a": "1"}]'),
    ):
        path = tmp_path / name
        path.write_bytes(gzip.compress(content.encode()))
        assert read(path) == [{"a": "1"}]
    for name in ("d.jsonl.gz", "d.gz"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(b'\n{"a": "1"}\n', mtime=0))
        assert list(file_rows(path)) == [({"a": "1"}, f"{path} line 2")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.csv", b'a,b\n1,2\n3,"x\n4,5\n', "line 3: malformed (unexpected end of data): put a cell with"),
        ("d.csv", b'a,b\n1,"x"y\n', "line 2: malformed (',' expected after '\"'): put a cell with"),
        ("d.csv", b"a,b\n1,2\n\n1,2,3\n", "line 4: 3 cells in a row of 2 columns: put a cell with commas"),
        ("d.tsv", b"a\tb\n1\t2\t3\n", "line 2: 3 cells in a row of 2 columns: write no tab within a cell"),
        ("d.csv", b"a,b,a\n1,2,3\n", 'line 1: two columns are named "a": rename one of them'),
        ("d.csv", b"a,b\n1,2\n\xc3\xa9,caf\xe9\n", "line 3: byte 7 is not UTF-8: save the file as UTF-8"),
        ("d.csv.gz", b"a,b\n1,2\n", "not a whole gzip file (Not a gzipped file (b'a,')): pack or fetch it"),
        (
            "d.csv.gz",
            gzip.compress(b"a\n1\n", mtime=0)[:-9],
            "not a whole gzip file (Compressed file ended",
        ),
        (
            "d.jsonl.gz",
            gzip.compress(b"{}", mtime=0)[:-9],
            "not a whole gzip file (Compressed file ended",
        ),
        ("d.parquet.gz", b"", "a packed .parquet file: unpack it with gunzip"),
    ],
)
def test_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    separator = " " if message.startswith("line") else ": "
    with pytest.raises(UserError, match=re.escape(f"{path}{separator}{message}")) as raised:
        list(file_rows(path))
    assert "\n" not in str(raised.value)

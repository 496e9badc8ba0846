"""What a journal says reads back exactly, and what was not written is found."""

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from journal_cases import CONFIG, HEADER, record, write

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.journal import Header, Journal, StepRecord, read_journal

Lines = list[str]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of five steps."""
    return write(tmp_path / "journal.jsonl", 5)


def test_the_format_is_the_documented_one(path: Path) -> None:
    lines = path.read_text().splitlines()
    header = json.loads(lines[0])
    checksum = header.pop("checksum")
    columns = "step seeds loss_plus loss_minus projected_grads learning_rate batch checksum"
    assert header == {
        "format": "sglang-mezo journal",
        "version": 2,
        "config": CONFIG,
        "model": {"w.bin": "ab"},
        "data": {"d.jsonl": "cd"},
        "columns": columns.split(),
    }
    assert checksum == hashlib.sha256(lines[0][: lines[0].rindex(",")].encode()).hexdigest()[:16]
    losses = [[1 / 3, 5e-324], [2 / 3, 1e300]]
    assert json.loads(lines[2])[:-1] == [2, [2 << 32, 2], *losses, [0.1 + 0.2, -0.0], 5e-7, "f" * 16]
    for line in lines[1:]:
        body = line[: line.rindex(",")]
        checksum = hashlib.sha256((checksum + body).encode()).hexdigest()[:16]
        assert json.loads(line)[-1] == checksum


def test_read_back_exactly(path: Path) -> None:
    header, records = read_journal(path)
    assert header == HEADER
    assert records == [record(step) for step in range(1, 6)]
    assert math.copysign(1, records[0].projected_grads[1]) == -1
    with Journal.open(path) as journal:
        assert (journal.header, journal.records) == (header, records)


def edited(number: int, old: str, new: str) -> Callable[[Lines], Lines]:
    """Return an edit of line `number`."""

    def edit(lines: Lines) -> Lines:
        assert old in lines[number - 1]
        return [*lines[: number - 1], lines[number - 1].replace(old, new), *lines[number:]]

    return edit


def repeated(lines: Lines) -> Lines:
    """Step 3 twice, the second time with a checksum that fits."""
    body = lines[3][: lines[3].rindex(",")]
    checksum = hashlib.sha256((json.loads(lines[3])[-1] + body).encode()).hexdigest()[:16]
    return [*lines[:4], f'{body},"{checksum}"]\n']


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited(3, "5e-324", "6e-324"), "line 3: it was changed"),
        (edited(3, "[2,", "2,"), "line 3: it was changed"),
        (edited(4, '"]', '" ]'), "line 4: it was changed"),
        (edited(6, "1e+300", "1e+301"), "line 6: it was changed"),
        (lambda lines: [*lines[:2], *lines[3:]], "line 3: it was changed, or a line before it is missing"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "line 4: it was changed"),
        (lambda lines: [*lines[:3], "\n", *lines[3:]], "line 4: it was changed"),
        (repeated, "line 5: step 3 stands where step 4 should"),
        (edited(1, "0.001", "0.002"), "line 1: it was changed, its checksum differs"),
        (edited(1, '"version":2', '"version":1'), "line 1: a journal of version 1, but this release reads"),
        (edited(1, "sglang-mezo", "other"), "line 1: not a journal of sglang-mezo"),
        (lambda lines: ["step,loss\n", *lines], "line 1: not a journal of sglang-mezo"),
        (lambda lines: ["[]\n", *lines], "line 1: not a journal of sglang-mezo"),
        (lambda lines: [lines[0][:-1]], "line 1: the header is incomplete"),
        (lambda lines: [], "line 1: the header is missing"),
    ],
)
def test_what_was_not_written_is_found(path: Path, edit: Callable[[Lines], Lines], message: str) -> None:
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))
    damaged = path.read_bytes()
    for use in (read_journal, Journal.open):
        with pytest.raises(UserError, match=re.escape(f"{path}, {message}")) as raised:
            use(path)
        assert "\n" not in str(raised.value)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize(
    "wrong",
    [
        replace(record(6), loss_plus=(math.nan, 1.0)),
        replace(record(6), projected_grads=(math.inf, 1.0)),
        record(7),
        record(5),
    ],
)
def test_no_wrong_step_is_written(path: Path, wrong: StepRecord) -> None:
    whole = path.read_bytes()
    with Journal.open(path) as journal, pytest.raises(ValueError):
        journal.append(wrong)
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            replace(HEADER, config={**CONFIG, "learning_rate": 1e-2}),
            "--learning-rate was 0.001 and is 0.01: choose another --output-dir, or pass what it was",
        ),
        (replace(HEADER, config={**CONFIG, "clip": 2.0}), "--clip was not set and is 2.0: "),
        (replace(HEADER, config={"learning_rate": 1e-3}), '--schedule was "linear" and is not set: '),
        (replace(HEADER, config={**CONFIG, "batch_size": 8}), "--batch-size was not set and is 8: "),
        (replace(HEADER, model={"w.bin": "00"}), 'model file w.bin was "ab" and is "00": '),
        (replace(HEADER, data={}), 'data file d.jsonl was "cd" and is not set: '),
    ],
)
def test_another_run_is_named_by_its_first_difference(other: Header, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        HEADER.check_same_run(other, Path("out"))
    assert str(raised.value).startswith("out holds another run: ")


def test_the_same_run_passes_in_the_types_that_json_lacks() -> None:
    HEADER.check_same_run(replace(HEADER, config={"learning_rate": 1e-3, "schedule": "linear"}), Path("out"))
    betas = replace(HEADER, config={"betas": [0.9, 0.999]})
    betas.check_same_run(replace(HEADER, config={"betas": (0.9, 0.999)}), Path("out"))

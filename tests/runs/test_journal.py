"""A journal's file: kills, power cuts, full disks and second processes."""

import os
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from journal_cases import HEADER, record, write

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.journal import Journal, holds_run, read_journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of five steps."""
    return write(tmp_path / "journal.jsonl", 5)


def test_torn_at_any_byte_it_is_resumed_to_the_same_bytes(path: Path) -> None:
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for size in range(start, len(whole)):
        path.write_bytes(whole[:size])
        assert len(read_journal(path)[1]) == 4
        assert path.stat().st_size == size
        with Journal.open(path) as journal:
            journal.append(record(5))
        assert path.read_bytes() == whole


@pytest.mark.parametrize("tail", [b"\0" * 100, b"\0" * 100 + b"\n", b"[6,[1\n", b'{"step": 6', b"\xff\n"])
def test_what_a_power_cut_leaves_at_the_end_is_dropped(path: Path, tail: bytes) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert len(read_journal(path)[1]) == 5
    assert path.read_bytes() == whole + tail
    Journal.open(path).close()
    assert path.read_bytes() == whole


def test_a_journal_without_a_step_is_replaced(path: Path) -> None:
    header = path.read_bytes().splitlines(keepends=True)[0]
    for size in range(len(header) + 1):
        path.write_bytes(header[:size])
        assert not holds_run(path)
        assert write(path, 1).read_bytes().startswith(header)
        assert holds_run(path)
    assert not holds_run(path.with_name("nothing"))


@pytest.mark.parametrize(
    "foreign", [b"my notes", b'{"format":"other"', b"my notes\n", b"my notes\nof two lines\n"]
)
def test_a_file_of_another_kind_is_never_replaced(path: Path, foreign: bytes) -> None:
    path.write_bytes(foreign)
    with pytest.raises(UserError, match="line 1: not a journal"):
        Journal.create(path, HEADER)
    assert path.read_bytes() == foreign


def test_a_journal_with_steps_is_never_replaced(path: Path) -> None:
    whole = path.read_bytes()
    with pytest.raises(UserError, match="holds another run: choose another --output-dir"):
        Journal.create(path, HEADER)
    assert path.read_bytes() == whole


def test_a_second_writer_is_refused_and_a_reader_is_not(path: Path) -> None:
    with Journal.open(path):
        for use in (Journal.open, lambda path: Journal.create(path, HEADER)):
            with pytest.raises(UserError, match=f"another process is writing {re.escape(str(path))}: wait"):
                use(path)
        assert len(read_journal(path)[1]) == 5
    Journal.open(path).close()


def test_a_killed_process_leaves_every_step_and_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    child = os.fork()
    if child == 0:
        try:
            journal = Journal.create(path, HEADER)
            for step in range(1, 8):
                journal.append(record(step))
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with Journal.open(path) as journal:
        assert journal.records == [record(step) for step in range(1, 8)]


def test_the_disk_is_waited_for_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, synced = [0.0], []
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(clock[0]))
    with Journal.create(tmp_path / "journal.jsonl", HEADER) as journal:
        for step in range(1, 8):
            clock[0] = step * 0.375
            journal.append(record(step))
    assert synced == [1.125, 2.25, 2.625]


def test_a_full_disk_is_one_line_and_the_run_can_go_on(path: Path) -> None:
    whole = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Journal.open(path) as journal:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 30, before[1]))
        try:
            with pytest.raises(UserError, match=f"cannot write {re.escape(str(path))}: No space left on"):
                journal.append(record(6))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == len(whole) + 30
    Journal.open(path).close()
    assert path.read_bytes() == whole


@pytest.mark.parametrize("use", [read_journal, Journal.open])
def test_a_missing_journal(use: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"journal.jsonl: No such file or directory: "):
        use(tmp_path / "journal.jsonl")


def test_twenty_thousand_steps_are_read_within_seconds(tmp_path: Path) -> None:
    path = write(tmp_path / "journal.jsonl", 20_000)
    start = time.perf_counter()
    assert len(read_journal(path)[1]) == 20_000
    assert time.perf_counter() - start < 5

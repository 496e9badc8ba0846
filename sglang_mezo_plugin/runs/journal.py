"""The append-only record of a run: with the base weights, enough to resume it and to rebuild its weights.

A text file, whose lines `journal_lines` describes. A step is one write of one line, with nothing kept back
in the process: a kill at any moment leaves whole lines and at most one torn one, which is dropped when the
run is resumed. The disk is waited for at most once a second, and on close: a power cut loses the steps of a
second at most, and the resumed run makes them again.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import IO

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.journal_lines import (
    BEGINNING,
    Header,
    StepRecord,
    header_line,
    load,
    not_a_journal,
    parse_header,
    parse_step,
    step_line,
)

__all__ = ["Header", "Journal", "StepRecord", "holds_run", "read_journal", "writing"]

SYNC_SECONDS = 1.0


@dataclass(frozen=True)
class _Contents:
    """What a journal says. checksum: of its last whole line. size: bytes up to the end of that line."""

    header: Header
    records: list[StepRecord]
    checksum: str
    size: int


class Journal:
    """A journal that is being written. No other process can open it for writing meanwhile.

    records: its steps; entry n - 1 is step n.
    """

    def __init__(self, path: Path, file: FileIO, contents: _Contents) -> None:
        self.path = path
        self.header = contents.header
        self.records = contents.records
        self._file = file
        self._checksum = contents.checksum
        self._synced = time.monotonic()

    @classmethod
    def create(cls, path: Path, header: Header) -> "Journal":
        """Start a journal. A journal without a step, whole or torn, is replaced.

        UserError if there is one with a step, or a file that is none, or if another process is writing it.
        """
        with _locked(path, os.O_CREAT) as file:
            if holds_run(path):
                raise UserError(f"{path.parent} holds another run: choose another --output-dir")
            line, checksum = header_line(header)
            with writing(path):
                file.truncate(0)
                _write(file, line)
            return cls(path, file, _Contents(header, [], checksum, len(line)))

    @classmethod
    def open(cls, path: Path) -> "Journal":
        """Open a journal to append to it: check all of it, and cut off a torn last line.

        UserError as of `read_journal`, and if another process is writing it.
        """
        with _locked(path) as file:
            contents = _read(path)
            with writing(path):
                file.truncate(contents.size)
            return cls(path, file, contents)

    def append(self, record: StepRecord) -> None:
        """Write a step. ValueError unless it follows the last one and its numbers are finite.

        UserError if it cannot be written, because the disk is full; the run can be resumed from what was.
        """
        if record.step != len(self.records) + 1:
            raise ValueError(f"step {record.step} cannot follow step {len(self.records)}")
        line, checksum = step_line(record, self._checksum)
        with writing(self.path):
            _write(self._file, line)
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        self._checksum = checksum
        self.records.append(record)

    def close(self) -> None:
        """Wait for the disk, and let others write."""
        with self._file, writing(self.path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_journal(path: Path) -> tuple[Header, list[StepRecord]]:
    """Return what a journal says, without a torn last line; never write. Its run may still go on.

    UserError, with file and line, for a file that is no journal, is empty, or is of another version, and for
    a line that does not follow from the one before it.
    """
    contents = _read(path)
    return contents.header, contents.records


def holds_run(path: Path) -> bool:
    """Say whether there is a journal with a step: without one, there is nothing to resume, nor to lose.

    UserError for a file that is no journal, not even one that a kill tore within its header.
    """
    if not path.exists():
        return False
    with _reading(path) as file:
        header, step = file.readline(), file.readline()
    if header.endswith(b"\n"):
        parse_header(path, header)
    elif not header.startswith(BEGINNING[: len(header)]):
        raise not_a_journal(path)
    return step.endswith(b"\n")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into a UserError that names the file."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror}: mend that, or choose another --output-dir"
        ) from error


def _read(path: Path) -> _Contents:
    records = []
    with _reading(path) as file:
        line = file.readline()
        header, checksum = parse_header(path, line)
        size = len(line)
        for number, line in enumerate(file, start=2):
            if not line.endswith(b"\n"):
                break
            try:
                record, checksum = parse_step(path, number, line, checksum)
            except UserError:
                # After a power cut the last block of a file may hold anything.
                if load(line) is None and not file.read(1):
                    break
                raise
            records.append(record)
            size += len(line)
    return _Contents(header, records, checksum, size)


@contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}: name the --output-dir of a run") from error
    with file:
        yield file


@contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[FileIO]:
    """Open a file to read and to append to, unbuffered, for this process alone; close it after an error."""
    with writing(path):
        file = FileIO(os.open(path, os.O_RDWR | os.O_APPEND | flags, 0o666), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file
    except BlockingIOError:
        file.close()
        raise UserError(
            f"another process is writing {path}: wait until it ends, or choose another --output-dir"
        ) from None
    except BaseException:
        file.close()
        raise


def _write(file: FileIO, line: bytes) -> None:
    """Write a line at once. OSError if only its beginning has found a place."""
    if file.write(line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

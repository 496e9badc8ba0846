"""The lines of a journal: what a run is, what a step was, and the checksums that chain them.

Line 1 is a JSON object, the header: what is run, on which model and data. Line n + 1 is a JSON array, step
n, with the columns `COLUMNS`. Floats are written so that they read back exactly. Every line ends with a
checksum: the first 16 hexadecimal digits of SHA-256 of the previous line's checksum, followed by the line's
own bytes up to the comma before its checksum. So an edited, missing or swapped line is found.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from sglang_mezo_plugin.errors import UserError

FORMAT = "sglang-mezo journal"
VERSION = 2  # of the file, and of the noise: with version 1 the same seeds were other directions
BEGINNING = f'{{"format":"{FORMAT}"'.encode()


@dataclass(frozen=True)
class Header:
    """What makes a run what it is.

    config: values by option name, with underscores. model, data: SHA-256 by file name.
    """

    config: Mapping[str, Any]
    model: Mapping[str, str]
    data: Mapping[str, str]

    def check_same_run(self, other: "Header", folder: Path) -> None:
        """UserError, naming the first option or file of `other` that is not as in this header of `folder`."""
        for name, was, now in _differences(self.config, other.config):
            raise UserError(
                f"{folder} holds another run: --{name.replace('_', '-')} was {was} and is {now}: "
                "choose another --output-dir, or pass what it was"
            )
        for kind, mine, theirs in (("model", self.model, other.model), ("data", self.data, other.data)):
            for name, was, now in _differences(mine, theirs):
                raise UserError(
                    f"{folder} holds another run: SHA-256 of the {kind} file {name} was {was} and is {now}: "
                    "choose another --output-dir, or restore the file"
                )


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step: its directions, the losses at theta + eps z and theta - eps z, and what became of them.

    seeds, loss_plus, loss_minus, projected_grads: one entry a direction. projected_grads are those that the
    optimizer got, after clipping. batch: the batch's identity.
    """

    step: int
    seeds: tuple[int, ...]
    loss_plus: tuple[float, ...]
    loss_minus: tuple[float, ...]
    projected_grads: tuple[float, ...]
    learning_rate: float
    batch: str


COLUMNS = [*(field.name for field in fields(StepRecord)), "checksum"]


def header_line(header: Header) -> tuple[bytes, str]:
    """Return line 1, and its checksum."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": header.config,
        "model": header.model,
        "data": header.data,
        "columns": COLUMNS,
    }
    body = _dumps(content)[:-1]
    checksum = _chain("", body)
    return body + f',"checksum":"{checksum}"}}\n'.encode(), checksum


def step_line(record: StepRecord, previous: str) -> tuple[bytes, str]:
    """Return a step's line, and its checksum, given that of the line before.

    ValueError if a number is infinite or NaN.
    """
    body = _dumps(astuple(record))[:-1]
    checksum = _chain(previous, body)
    return body + f',"{checksum}"]\n'.encode(), checksum


def parse_header(path: Path, line: bytes) -> tuple[Header, str]:
    """Return a header, and its checksum. UserError if the line is not just what `header_line` returns."""
    if not line.endswith(b"\n"):
        state = "incomplete" if line else "missing"
        raise UserError(f"{path}, line 1: the header is {state}, so there is no step: start the run again")
    content = load(line)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise not_a_journal(path)
    if content.get("version") != VERSION:
        raise UserError(
            f"{path}, line 1: a journal of version {content.get('version')}, but this release reads version "
            f"{VERSION}: use the release that made it"
        )
    body, _, stated = line.rpartition(b',"checksum":"')
    checksum = _chain("", body)
    if stated != f'{checksum}"}}\n'.encode():
        raise UserError(
            f"{path}, line 1: it was changed, its checksum differs: restore the file, or choose another "
            "--output-dir"
        )
    return Header(content["config"], content["model"], content["data"]), checksum


def parse_step(path: Path, number: int, line: bytes, previous: str) -> tuple[StepRecord, str]:
    """Return the step of line `number`, and its checksum.

    UserError if the line is not just what `step_line` returns, given the checksum of the line before, or if
    it is not step number - 1.
    """
    body, _, stated = line.rpartition(b',"')
    checksum = _chain(previous, body)
    if stated != f'{checksum}"]\n'.encode():
        raise UserError(
            f"{path}, line {number}: it was changed, or a line before it is missing, its checksum differs: "
            "restore the file, or choose another --output-dir"
        )
    step, seeds, plus, minus, grads, learning_rate, batch = json.loads(body + b"]")
    if step != number - 1:
        raise UserError(
            f"{path}, line {number}: step {step} stands where step {number - 1} should: restore the file, or "
            "choose another --output-dir"
        )
    record = StepRecord(step, tuple(seeds), tuple(plus), tuple(minus), tuple(grads), learning_rate, batch)
    return record, checksum


def load(line: bytes) -> Any:
    """Return a line's JSON value, None if it is not JSON."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def not_a_journal(path: Path) -> UserError:
    return UserError(f"{path}, line 1: not a journal of sglang-mezo: choose another --output-dir")


def _dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _chain(previous: str, body: bytes) -> str:
    return hashlib.sha256(previous.encode() + body).hexdigest()[:16]


def _differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield name, earlier and present value wherever two mappings differ; None is as good as missing."""
    for name in {**was, **now}:
        before, after = (
            "not set" if values.get(name) is None else json.dumps(values[name], sort_keys=True)
            for values in (was, now)
        )
        if before != after:
            yield name, before, after

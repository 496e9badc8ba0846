"""The files of a run agree with its journal, whatever was lost."""

import errno
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from journal_cases import CONFIG, HEADER, record, write

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.runs.folder import RunFolder, step_metrics


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """A run of five steps, evaluated at steps 0, 2 and 4."""
    folder = RunFolder(tmp_path / "made" / "on the way")
    write(folder.journal, 5)
    for step in range(1, 6):
        folder.add_metrics(step_metrics(record(step), 0.5))
    for step in (0, 2, 4):
        folder.add_evaluation({"step": step, "loss": 1.0 / (step + 1)})
    folder.write_summary({"status": "stopped"})
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_metrics_are_means_over_the_pairs() -> None:
    pairs = replace(record(7), loss_plus=(1.0, 2.0), loss_minus=(3.0, 6.0), projected_grads=(-1.0, -2.0))
    assert step_metrics(pairs, 0.25) == {
        "step": 7,
        "loss_plus": 1.5,
        "loss_minus": 4.5,
        "projected_grad": -1.5,
        "learning_rate": 1e-6 / 7,
        "seconds": 0.25,
    }
    one = replace(pairs, loss_plus=(0.1 + 0.2,), loss_minus=(1.0,), projected_grads=(1.0,))
    assert step_metrics(one, None)["loss_plus"] == 0.1 + 0.2


def test_metrics_are_restored_from_the_journal_wherever_they_were_cut(folder: RunFolder) -> None:
    whole = folder.metrics.read_bytes()
    for size in range(len(whole) + 1):
        folder.metrics.write_bytes(whole[:size])
        RunFolder(folder.path).open_journal(HEADER, resume=True).close()
        kept = whole[:size].count(b"\n")
        expected = [step_metrics(record(step), 0.5 if step <= kept else None) for step in range(1, 6)]
        assert lines(folder.metrics) == expected
    folder.metrics.unlink()
    RunFolder(folder.path).open_journal(HEADER, resume=True).close()
    assert [line["seconds"] for line in lines(folder.metrics)] == [None] * 5


def test_what_the_journal_has_not_is_cut(folder: RunFolder) -> None:
    content = folder.journal.read_bytes().splitlines(keepends=True)
    folder.journal.write_bytes(b"".join(content[:4]) + content[4][:50])
    resumed = RunFolder(folder.path)
    resumed.open_journal(HEADER, resume=True).close()
    assert [line["step"] for line in lines(folder.metrics)] == [1, 2, 3]
    assert (
        resumed.evaluations == lines(folder.evals) == [{"step": 0, "loss": 1.0}, {"step": 2, "loss": 1 / 3}]
    )
    assert not folder.summary.exists()
    resumed.add_evaluation({"step": 3, "loss": 0.5})
    assert [line["step"] for line in lines(folder.evals)] == [0, 2, 3]
    assert resumed.evaluations == lines(folder.evals)


def test_a_damaged_line_ends_what_is_kept(folder: RunFolder) -> None:
    for path in (folder.metrics, folder.evals):
        content = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(content[0] + b"[]\n" + b"".join(content[2:]))
    resumed = RunFolder(folder.path)
    resumed.open_journal(HEADER, resume=True).close()
    assert [line["seconds"] for line in lines(folder.metrics)] == [0.5, None, None, None, None]
    assert resumed.evaluations == lines(folder.evals) == [{"step": 0, "loss": 1.0}]


def test_without_resume_a_run_is_left_alone(folder: RunFolder) -> None:
    before = {path: path.read_bytes() for path in folder.path.iterdir()}
    with pytest.raises(UserError, match="holds another run: choose another --output-dir, or add --resume"):
        RunFolder(folder.path).open_journal(HEADER, resume=False)
    other = replace(HEADER, config={**CONFIG, "learning_rate": 0.5})
    message = f"{re.escape(str(folder.path))} holds another run: --learning-rate was 0.001"
    with pytest.raises(UserError, match=message) as raised:
        RunFolder(folder.path).open_journal(other, resume=True)
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before
    # The traceback keeps what was opened alive: were it not closed, it would still be locked.
    assert raised.tb is not None
    RunFolder(folder.path).open_journal(HEADER, resume=True).close()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("header_bytes", [0, 40, None])
def test_without_a_step_there_is_no_run(folder: RunFolder, header_bytes: int | None, resume: bool) -> None:
    """A run that died at once, for want of memory say, does not bind the next one to its options."""
    folder.journal.write_bytes(folder.journal.read_bytes().splitlines(keepends=True)[0][:header_bytes])
    other = replace(HEADER, config={"learning_rate": 0.5})
    fresh = RunFolder(folder.path)
    with fresh.open_journal(other, resume=resume) as journal:
        assert (journal.header, journal.records, fresh.evaluations) == (other, [], [])
    assert [path.name for path in folder.path.iterdir()] == ["journal.jsonl"]


@pytest.mark.parametrize("resume", [False, True])
def test_other_files_are_left_alone(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "notes").write_text("mine")
    RunFolder(tmp_path).open_journal(HEADER, resume=resume).close()
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_summary_is_whole_or_not_at_all(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(UserError, match=r"cannot write .*summary\.json: No space left on device"):
            folder.write_summary({"status": "finished"})
    assert json.loads(folder.summary.read_text()) == {"status": "stopped"}
    folder.write_summary({"status": "finished"})
    assert json.loads(folder.summary.read_text()) == {"status": "finished"}
    assert len(list(folder.path.iterdir())) == 4


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_folders_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, reason in ((file, "File exists"), (file / "out", "Not a directory")):
        with pytest.raises(UserError, match=f"--output-dir {re.escape(str(path))}: {reason}: choose another"):
            RunFolder(path)
    # A superuser may write everywhere, so a real folder cannot show this.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(UserError, match="cannot be written: choose another --output-dir"):
        RunFolder(tmp_path / "out")

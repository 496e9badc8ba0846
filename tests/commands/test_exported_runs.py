"""Exports of a run: bit for bit what it had at any step, or one line that says why not."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from children import Commands
from safetensors.torch import load_file
from whole_runs import METHODS, STEPS, Run, tree

WEIGHTS = "adapter_model.safetensors"


@pytest.mark.parametrize("method", METHODS)
def test_exports_are_what_the_run_had(
    method: str,
    commands: Commands,
    training: list[Any],
    whole_run: Callable[..., Run],
    opt: Path,
    tmp_path: Path,
) -> None:
    whole = whole_run(method)

    def exported(*words: Any) -> Path:
        folder = tmp_path / "-".join(["exported", *map(str, words)])
        commands.succeed("export", "--run", whole.folder, "--output-dir", folder, *words)
        return folder

    assert tree(exported()) == tree(exported("--step", STEPS)) == tree(whole.output)
    words = [*training, *METHODS[method], "--steps", 7, "--output-dir", tmp_path / "seven"]
    commands.succeed("train", *words)
    assert tree(exported("--step", 7)) == tree(tmp_path / "seven" / whole.output.name) != tree(whole.output)
    first = exported("--step", 0)
    if whole.output.name == "adapter":
        adapter = load_file(first / WEIGHTS)
        assert all(bool(tensor.any()) == (".lora_A." in name) for name, tensor in adapter.items())
    else:
        base, found = (load_file(folder / "model.safetensors") for folder in (opt, first))
        dtype = torch.bfloat16 if method == "full-bfloat16" else torch.float32
        assert found.keys() == base.keys()
        assert all(torch.equal(found[name], tensor.to(dtype)) for name, tensor in base.items())
        assert all(tensor.dtype == dtype for tensor in found.values())


def test_runs_that_begin_with_an_adapter(
    commands: Commands, training: list[Any], whole_run: Callable[..., Run], opt: Path, tmp_path: Path
) -> None:
    """Also with momentum, and with base model and adapter that have moved since."""
    start, run = tmp_path / "start", tmp_path / "run"
    shutil.copytree(whole_run("lora").output, start)
    words = ["--mode", "lora", "--lora-path", start, "--optimizer", "momentum", "--learning-rate", 1e-3]
    commands.succeed("train", *training, *words, "--steps", 9, "--output-dir", run)
    assert tree(run / "adapter")[WEIGHTS] != tree(start)[WEIGHTS]
    moved = [tmp_path / "moved-model", tmp_path / "moved-adapter"]
    shutil.copytree(opt, moved[0])
    start.rename(moved[1])
    words = ["export", "--run", run, "--output-dir", tmp_path / "exported", "--model-path", moved[0]]
    refused = commands(*words)
    assert refused.exit_code == 2
    assert f"{start / 'adapter_config.json'} is not what the run began with: restore it" in refused.stderr
    commands.succeed(*words, "--lora-path", moved[1])
    assert tree(tmp_path / "exported")[WEIGHTS] == tree(run / "adapter")[WEIGHTS]


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize(
    "fault", ["step", "target", "weights", "config", "options", "journal", "no run", "moved"]
)
def test_exports_that_are_refused(
    fault: str, method: str, commands: Commands, whole_run: Callable[..., Run], opt: Path, tmp_path: Path
) -> None:
    run, base, target = tmp_path / "run", tmp_path / "base", tmp_path / "target"
    shutil.copytree(whole_run(method).folder, run)
    shutil.copytree(opt, base)
    words, message = {
        "step": (["--step", STEPS + 1], f"--step {STEPS + 1}: the journal has steps 0 to {STEPS}: name one"),
        "target": ([], f"--output-dir {target} exists: choose another one"),
        "weights": ([], f"{base / 'model.safetensors'} is not what the run began with: restore it"),
        "config": ([], f"{base / 'config.json'} is not what the run began with: restore it"),
        "options": ([], f"cannot read {run / 'options.json'}"),
        "journal": ([], f"{run / 'journal.jsonl'}, line 5: it was changed"),
        "no run": (["--run", opt], f"cannot read {opt / 'journal.jsonl'}"),
        "moved": (["--model-path", tmp_path / "none"], f"--model-path {tmp_path / 'none'}: no such folder"),
    }[fault]
    if fault == "target":
        target.mkdir()
    if fault == "options":
        (run / "options.json").unlink()
    for name, file in (("weights", base / "model.safetensors"), ("config", base / "config.json")):
        if fault == name:
            damage(file, file.stat().st_size - 1)
    if fault == "journal":
        damage(run / "journal.jsonl", (run / "journal.jsonl").read_bytes().find(b"[4,") + 3)
    before = tree(tmp_path)
    outcome = commands("export", "--run", run, "--output-dir", target, "--model-path", base, *words)
    assert outcome.exit_code == 2
    assert outcome.stderr.startswith(f"error: {message}")
    assert outcome.stderr.count("\n") == 1
    assert tree(tmp_path) == before
    assert target.exists() == (fault == "target")


def damage(file: Path, position: int) -> None:
    """Change one byte."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)

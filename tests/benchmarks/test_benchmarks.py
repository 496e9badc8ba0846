"""Each script runs at a tiny size on this host's CPU, and writes what it says it does."""

import gc
import json
import math
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import adapters
import memory
import models
import noise
import pytest
import step_cases
import step_time
import torch
from baseline import PlainMezo

from sglang_mezo_plugin.tasks.sampler import Sampler

TINY = ["--device", "cpu", "--dtype", "float32"]
STEPS, WARMUP, BATCH_SIZE = 3, 1, 4
SHORT = ["--models", "tiny", *TINY, "--batch-size", f"{BATCH_SIZE}", "--warmup", f"{WARMUP}"]
SHORT += ["--steps", f"{STEPS}", "--baseline-steps", f"{STEPS}"]
LENGTHS = (4, 8)
GAUSSIAN = ("lora", "full", "forward", "baseline", "baseline-fused")
CASES = {*product(LENGTHS, GAUSSIAN, ["gaussian"]), *product(LENGTHS, ["lora", "full"], ["rademacher"])}
Report = dict[str, Any]


def run(main: Callable[[list[str]], None], words: list[str], file: Path) -> Report:
    main([*words, "--json", str(file)])
    return json.loads(file.read_text())


def check_provenance(report: Report, script: str) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert report["commit"].removesuffix("-dirty") == head.stdout.strip()
    assert report["command"].startswith(f"python benchmarks/{script} ")
    assert report["stack"]["sglang"] == version("sglang")
    assert report["stack"]["torch"] == torch.__version__
    assert report["machine"]["cpus"] >= 1


def test_step_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SHORT, "--lengths", *map(str, LENGTHS), "--noise", "gaussian", "rademacher"]
    profile = tmp_path / "kernels.txt"
    report = run(step_time.main, [*words, "--profile", str(profile)], tmp_path / "report.json")
    check_provenance(report, "step_time.py")
    cases = {(case["length"], case["carrier"], case["noise"]): case for case in report["cases"]}
    assert len(cases) == len(report["cases"])
    assert cases.keys() == CASES
    model = models.Model.write("tiny", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    for (length, carrier, _), case in cases.items():
        assert (case["status"], case["model"]) == ("ok", "tiny")
        assert len(case["step_ms"]) == STEPS
        assert case["ms"] == median(case["step_ms"]) > case["floor_ms"] > 0
        assert case["x_baseline"] == cases[length, "baseline", "gaussian"]["ms"] / case["ms"]
        # Weights are within 1e-3 of 0, and so is every logit.
        assert case["loss"] == pytest.approx(math.log(model.config.vocab_size), abs=1e-3)
        sampler = Sampler(
            models.random_examples(model, length, BATCH_SIZE * (WARMUP + STEPS)), BATCH_SIZE, seed=0
        )
        sizes = [len(e.prompt) for s in range(STEPS) for e in sampler.batch(WARMUP + 1 + s).examples]
        assert case["tokens"] == BATCH_SIZE * fmean(sizes)
        row = f"{case['label']:36}  {case['tokens']:8,.0f}  {case['ms']:13,.2f}"
        assert sum(row in line for line in lines) == 2, carrier  # at once, and in the table of all
        assert f"tiny, L = {length}, {case['label']}\n" in profile.read_text()
    assert profile.read_text().count("ms of cpu time a step") == len(CASES)
    gc.collect()
    in_memory = [type(thing).__name__ for thing in gc.get_objects()]
    assert "ModelRunner" not in in_memory
    assert "PlainMezo" not in in_memory


@pytest.mark.parametrize(
    ("carrier", "words"), [("lora", "r8 q_proj,v_proj graph "), ("full", "graph "), ("forward", "")]
)
def test_a_label_says_what_runs_by_graphs(carrier: str, words: str) -> None:
    args = step_time.make_parser().parse_args(["--cuda-graph"])
    case = step_cases.Case("tiny", 8, carrier, "rademacher")
    assert step_time.label(case, args) == f"{carrier} {words}rademacher"


def test_what_does_not_fit_is_a_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In 1 MiB beside the weights pools of 256 tokens a sequence do not fit, alone or with those of 8."""
    free = 4 * models.Model.write("tiny", tmp_path).parameters + 2.0**20
    monkeypatch.setattr("sglang_mezo_plugin.engine.session.free_memory", lambda *unused: free)
    step = PlainMezo.step

    def small_batches_only(self: PlainMezo, batch: Any, seed: int) -> tuple[float, float]:
        if max(len(example.prompt) for example in batch) > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, batch, seed)

    monkeypatch.setattr(PlainMezo, "step", small_batches_only)
    words = [*SHORT, "--lengths", "256", "8", "--carriers", "full", "baseline"]
    report = run(step_time.main, words, tmp_path / "report.json")
    found = {(case["carrier"], case["length"]): case for case in report["cases"]}
    assert {key: case["status"] for key, case in found.items()} == {
        ("full", 8): "ok",
        ("full", 256): step_cases.OUT_OF_MEMORY,
        ("baseline", 256): step_cases.OUT_OF_MEMORY,
        ("baseline", 8): "ok",
    }
    assert found["full", 256]["ms"] is None
    assert found["full", 8]["x_baseline"] == found["baseline", 8]["ms"] / found["full", 8]["ms"]
    assert capsys.readouterr().out.count(f"{step_cases.OUT_OF_MEMORY}          -           -\n") == 4


def test_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(
        noise.main,
        ["--device", "cpu", "--elements", "2**14", "--dtypes", "float32", "bfloat16"],
        tmp_path / "report.json",
    )
    check_provenance(report, "noise.py")
    passes = {"copy": 2, "torch.normal": 1}
    for distribution in ("gaussian", "rademacher"):
        passes[f"write {distribution}"] = 3
        passes[f"accumulate_ {distribution}"] = 2
        passes[f"move_and_write {distribution}"] = 4
    assert [(case["dtype"], case["operation"]) for case in report["cases"]] == [
        *product(("float32", "bfloat16"), passes)
    ]
    out = capsys.readouterr().out
    for case in report["cases"]:
        size = {"float32": 4, "bfloat16": 2}[case["dtype"]]
        moved = passes[case["operation"]] * 2**14 * size
        assert case["ms"] > 0
        assert case["bytes_per_second"] * case["ms"] / 1e3 == pytest.approx(moved)
        assert (case["normals_per_second"] is None) == (case["operation"] == "copy")
        assert f"{case['dtype']:9}  {case['operation']:30}  {case['ms']:10,.3f}" in out


def test_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--model",
        "tiny",
        *TINY,
        "--length",
        "8",
        "--batch-size",
        "4",
        "--carrier",
        "lora",
        "--steps",
        "2",
    ]
    report = run(memory.main, words, tmp_path / "report.json")
    check_provenance(report, "memory.py")
    (case,) = report["cases"]
    model = models.Model.write("tiny", tmp_path)
    assert (case["carrier"], case["status"]) == ("lora", "ok")
    assert case["weights_gib"] * 2**30 == 4 * model.parameters
    keys_and_values = 2 * 64  # of one layer, for all
    assert case["kv_pool_gib"] * 2**30 == 4 * keys_and_values * case["pools"]["max_total_tokens"]
    assert case["ms"] == median(case["step_ms"]) > 0
    assert f"{case['ms']:13,.2f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("main", "words", "message"),
    [
        (step_time.main, ["--lengths", "8", "1"], "length 1: pass 2 to 1365, since tiny has 2048 positions"),
        (step_time.main, ["--lengths", "1366"], "length 1366: pass 2 to 1365"),
        (step_time.main, ["--warmup", "0"], "--warmup must be at least 1, not 0"),
        (step_time.main, ["--baseline-steps", "4"], "--baseline-steps 4 is more than --steps 3: lower it"),
        (step_time.main, ["--json", "/no/such/folder/file"], "--json /no/such/folder/file: No such file"),
        (
            step_time.main,
            ["--lengths", "4", "--no-such-option", "1"],
            "unrecognized arguments: --no-such-opt",
        ),
        (memory.main, ["--length", "1"], "length 1: pass 2 to 1365"),
        (memory.main, ["--steps", "0"], "--steps must be at least 1, not 0"),
        (noise.main, ["--elements", "2**11"], "--elements 2**11: pass a multiple of 4096"),
        (noise.main, ["--elements", "2^28"], "--elements 2^28: pass a number such as 2**28"),
    ],
)
def test_refused(
    main: Callable[[list[str]], None], words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    start = {step_time.main: SHORT, memory.main: ["--model", "tiny", *TINY], noise.main: ["--device", "cpu"]}
    with pytest.raises(SystemExit) as raised:
        main([*start[main], *words])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


@pytest.mark.usefixtures("forking_servers")
@pytest.mark.parametrize(
    "through_folder", [False, pytest.param(True, marks=pytest.mark.long)], ids=["tensors", "folder"]
)
def test_adapters(through_folder: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "tiny-llama", *TINY, "--members", "3", "--prompts", "2", "--length", "4"]
    words += ["--tokens", "5", "--repeats", "2", "--log", str(tmp_path / "server.log")]
    words += ["--adapter-folder", str(tmp_path)] if through_folder else []
    report = run(adapters.main, words, tmp_path / "report.json")
    check_provenance(report, "adapters.py")
    assert [case["case"] for case in report["cases"]] == ["base", "adapters", "generation"]
    base = report["cases"][0]["tokens_per_second"]
    for case in report["cases"]:
        assert (case["requests"], case["tokens"], len(case["all_seconds"])) == (6, 30, 2)
        assert case["tokens_per_second"] == 30 / median(case["all_seconds"])
        assert case["x_base"] == case["tokens_per_second"] / base
    log = (tmp_path / "server.log").read_text()
    # Three for the case "adapters", and three for each of the three generations.
    loads = {"tensors": "POST /load_lora_adapter_from_tensors", "folder": "POST /load_lora_adapter "}
    kinds = ("folder", "tensors") if through_folder else ("tensors", "folder")
    assert [log.count(loads[kind]) for kind in kinds] == [12, 0]
    assert len(capsys.readouterr().out.splitlines()) == 6

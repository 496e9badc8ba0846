"""The command against the fake server: its numbers are those of the definition, and a run goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import evolve_rewards
import pytest
import torch
from evolve_runs import NUMBER, Files, entries, saved
from fake_server import FakeServer

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.evolve import evolve
from sglang_mezo_plugin.export import main as export
from sglang_mezo_plugin.noise import Distribution

CASES = [
    ("mirrored", "z-score", "sgd", "gaussian"),
    ("one-sided", "z-score", "sgd", "gaussian"),
    ("mirrored", "centered-rank", "adam", "gaussian"),
    ("one-sided", "raw", "momentum", "gaussian"),
    ("mirrored", "z-score", "momentum", "rademacher"),
]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.mark.parametrize(("estimator", "shaping", "optimizer", "distribution"), CASES)
def test_a_run_is_its_definition(
    files: Files,
    fake: FakeServer,
    tmp_path: Path,
    estimator: str,
    shaping: str,
    optimizer: str,
    distribution: Distribution,
) -> None:
    out = tmp_path / "out"
    options = ["--estimator", estimator, "--shaping", shaping, "--optimizer", optimizer, "--mean"]
    options += ["--distribution", distribution]
    result = evolve(files.words(fake.url, out, *options, "--eval-file", str(files.questions)))
    assert (result.status, result.last_step) == ("finished", 4)
    expected = files.expected(4, estimator, shaping, optimizer, distribution)
    for name, tensor in saved(out).items():
        torch.testing.assert_close(tensor, expected.tensors[name], rtol=1e-4, atol=1e-6)
    metrics, evaluations = entries(out / "metrics.jsonl"), entries(out / "evals.jsonl")
    assert [entry["step"] for entry in evaluations] == [0, 4]
    for entry, adapter in zip(evaluations, (0, 4), strict=True):
        x = float(files.expected(adapter, estimator, shaping, optimizer, distribution).tensors[NUMBER][0, 0])
        assert entry["reward"] == -entry["loss"] == pytest.approx(-0.75 * (x - 0.25) ** 2, rel=1e-4)
    # --mean asks theta before the generation's update.
    assert metrics[0]["mean_reward"] == evaluations[0]["reward"]
    assert [entry["members"] for entry in metrics] == [6] * 4
    assert all(entry["best_reward"] > entry["reward"] for entry in metrics)
    assert fake.adapters == {}
    assert 1 < fake.most_loaded <= 4  # slots, for six members and theta
    assert (out / "reward.png").stat().st_size > 10_000


def test_rewards_rise_to_a_known_optimum(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    options = ("--population", "16", "--steps", "60", "--learning-rate", "0.02", "--eval-steps", "1")
    evolve(files.words(fake.url, tmp_path / "out", *options, "--eval-file", str(files.questions)))
    rewards = [entry["reward"] for entry in entries(tmp_path / "out" / "evals.jsonl")]
    assert rewards[0] < -0.01
    assert max(rewards[-10:]) > -1e-4
    best = saved(tmp_path / "out", "best")[NUMBER][0, 0]
    assert -0.75 * (float(best) - 0.25) ** 2 == pytest.approx(max(rewards), abs=1e-8)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_that_failed_goes_on_and_ends_with_the_same_bits(
    files: Files, fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    evolve(files.words(fake.url, whole, "--optimizer", optimizer))
    parabola, calls = evolve_rewards.parabola, iter(range(10**6))

    def breaks(*args: object) -> float:
        if next(calls) == 30:  # of 6 members and 2 prompts: in the third generation
            raise RuntimeError("out of luck")
        return parabola(*args)

    monkeypatch.setattr(evolve_rewards, "parabola", breaks)
    words = files.words(fake.url, broken, "--optimizer", optimizer)
    with pytest.raises(UserError, match=r"questions.jsonl line [12]: reward .* RuntimeError \(out of luck\)"):
        evolve(words)
    assert len((broken / "journal.jsonl").read_text().splitlines()) == 3
    assert fake.adapters == {}
    with pytest.raises(UserError, match="holds another run"):
        evolve(words)
    evolve([*words, "--resume"])
    assert (broken / "journal.jsonl").read_bytes() == (whole / "journal.jsonl").read_bytes()
    for name, tensor in saved(whole).items():
        assert torch.equal(tensor, saved(broken)[name])


def test_any_step_is_exported(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    out = tmp_path / "out"
    evolve(files.words(fake.url, out, "--optimizer", "adam"))
    export(["--run", str(out), "--output-dir", str(tmp_path / "last")])
    export(["--run", str(out), "--step", "2", "--output-dir", str(tmp_path / "second")])
    evolve(files.words(fake.url, tmp_path / "short", "--optimizer", "adam", "--steps", "2"))
    for mine, theirs in (("last", out / "adapter"), ("second", tmp_path / "short" / "adapter")):
        weights = "adapter_model.safetensors"
        assert (tmp_path / mine / weights).read_bytes() == (theirs / weights).read_bytes()


def test_the_folder_says_how_it_was_made_but_no_key(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    fake.api_key = "sesame"
    out = tmp_path / "out"
    evolve(files.words(fake.url, out, "--api-key", "sesame", "--steps", "1"))
    readme = (out / "README.md").read_text()
    assert "sglang_mezo_plugin.evolve --server" in readme and "--api-key KEY" in readme
    assert all("sesame" not in path.read_text() for path in (out / "README.md", out / "options.json"))
    assert json.loads((out / "summary.json").read_text())["status"] == "finished"


def test_adapters_through_a_folder(files: Files, fake: FakeServer, tmp_path: Path) -> None:
    fake.missing_paths = {"/load_lora_adapter_from_tensors"}
    shared = tmp_path / "shared"
    shared.mkdir()
    words = files.words(fake.url, tmp_path / "out", "--steps", "2")
    with pytest.raises(UserError, match="pass a folder"):
        evolve(words)
    evolve([*words, "--adapter-folder", str(shared)])
    expected = files.expected(2, "mirrored", "z-score", "sgd")
    torch.testing.assert_close(
        saved(tmp_path / "out")[NUMBER], expected.tensors[NUMBER], rtol=1e-4, atol=1e-6
    )
    assert list(shared.iterdir()) == []


@pytest.mark.parametrize("make", [lambda files: [], lambda files: ["--chat"]], ids=["text", "chat"])
def test_prompts_reach_the_server(
    files: Files, fake: FakeServer, tmp_path: Path, make: Callable[[Files], list[str]]
) -> None:
    chat = make(files)
    options = ["--steps", "1", "--max-new-tokens", "7", "--stop", "x", *chat]
    evolve(files.words(fake.url, tmp_path / "out", *options))
    bodies = fake.bodies("/v1/chat/completions" if chat else "/generate")
    assert len(bodies) == 12
    for body in bodies:
        limits = body if chat else body["sampling_params"]
        assert limits["max_tokens" if chat else "max_new_tokens"] == 7
        assert (limits["temperature"], limits["stop"]) == (0.0, ["x"])
        assert body["lora_path"].startswith("evolve.")
    if chat:
        assert bodies[0]["messages"] in ([{"role": "user", "content": p}] for p in "ab")

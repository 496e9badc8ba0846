"""The command against a real server: it finds an optimum, and survives that either of them is killed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev

import pytest
from evolve_runs import entries
from real_server import RealServer
from served_models import RANK

from sglang_mezo_plugin.evolve import evolve

pytestmark = pytest.mark.usefixtures("one_thread")

TOKENS = 16
PROMPTS = ["a dull film", "the new film", "one old film", "my own film"]


@pytest.fixture
def words(real: RealServer, model: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Command lines for runs in tmp_path."""
    questions = tmp_path / "questions.jsonl"
    rows = [{"prompt": prompt, "letter": "m", "tokens": TOKENS} for prompt in PROMPTS]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def words(name: str, *options: str) -> list[str]:
        return [
            *("--server", real.url, "--api-key", real.api_key, "--admin-api-key", real.admin_api_key),
            *(
                "--model-path",
                str(model),
                "--train-file",
                str(questions),
                "--output-dir",
                str(tmp_path / name),
            ),
            *("--reward", "evolve_rewards:share", "--population", "12", "--sigma", "0.1", "--quiet"),
            *("--learning-rate", "0.1", "--lora-rank", str(RANK), "--lora-target-modules", "all-linear"),
            *("--max-new-tokens", str(TOKENS), "--steps", "15", *options),
        ]

    return words


# Few tokens: none of them is to be a matter of rounding, which depends on what else is in a batch.
SHORT = ("--population", "6", "--max-new-tokens", "8", "--max-train-examples", "2", "--steps", "4")


@pytest.mark.long
def test_a_known_optimum_is_found(words: Callable[..., list[str]], tmp_path: Path) -> None:
    """The share of one token in what theta writes, next to a run whose theta does not move."""
    evolve(words("run", "--mean"))
    evolve(words("still", "--mean", "--learning-rate", "1e-12"))
    found, still = (entries(tmp_path / name / "metrics.jsonl") for name in ("run", "still"))
    rewards = [entry["mean_reward"] for entry in found]
    before = still[0]["mean_reward"]
    assert all(entry["mean_reward"] == before for entry in still) and rewards[0] == before < 0.1
    # Of the members' means, since theta's own reward does not vary when it stays where it is.
    spread = stdev(entry["reward"] for entry in still)
    assert spread > 0
    assert fmean(rewards[-5:]) > before + 3 * spread
    assert fmean(rewards[-5:]) > 0.3


def test_the_server_is_killed_in_a_generation(
    words: Callable[..., list[str]], real: RealServer, tmp_path: Path
) -> None:
    evolve(words("whole", *SHORT))
    with real.killed_at(12 + 5):  # in the second generation of 6 members and 2 prompts
        evolve(words("killed", *SHORT))
    check_same(tmp_path, real)


def test_the_client_is_killed_in_a_generation(
    words: Callable[..., list[str]], real: RealServer, tmp_path: Path
) -> None:
    evolve(words("whole", *SHORT))
    command = [sys.executable, "-m", "sglang_mezo_plugin.evolve", *words("killed", *SHORT)]
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    journal = tmp_path / "killed" / "journal.jsonl"
    with real.connect(run="watching") as watching, subprocess.Popen(command, env=environment) as process:
        while not journal.exists() or journal.read_bytes().count(b"\n") < 3 or not watching.adapters():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    evolve([*words("killed", *SHORT), "--resume"])
    check_same(tmp_path, real)


def check_same(folder: Path, real: RealServer) -> None:
    """Check that a run that was disturbed is the one that was not, and that no adapter is left."""
    for file in ("journal.jsonl", "adapter/adapter_model.safetensors"):
        assert (folder / "killed" / file).read_bytes() == (folder / "whole" / file).read_bytes(), file
    with real.connect() as server:
        assert server.adapters() == []

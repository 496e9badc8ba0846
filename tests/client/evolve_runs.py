"""Runs of the command against the fake server, and what they must come to."""

import json
from pathlib import Path
from typing import Any

import tiny_checkpoints
import torch
from evolve_rewards import OPTIMUM
from one_tensor import direction_into
from safetensors.torch import load_file

from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.noise import Distribution
from sglang_mezo_plugin.training import spsa
from sglang_mezo_plugin.training.evolution import projected_grads
from sglang_mezo_plugin.training.optimizers import make_optimizer

ROWS = [{"prompt": "a", "weight": 1.0}, {"prompt": "b", "weight": 0.5}]
NUMBER = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"  # whose first element the fake says


class Files:
    """A model and questions for runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny_checkpoints.save("llama", folder)
        self.questions = self.write("questions.jsonl", ROWS)

    def write(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def words(self, url: str, out: Path, *more: str) -> list[str]:
        return [
            *("--server", url, "--model-path", str(self.model), "--train-file", str(self.questions)),
            *("--reward", "evolve_rewards:parabola", "--population", "6", "--sigma", "0.01", "--steps", "4"),
            *("--learning-rate", "0.005", "--lora-target-modules", "q_proj", "v_proj", "--lora-rank", "2"),
            *("--output-dir", str(out), "--quiet", *more),
        ]

    def expected(
        self,
        steps: int,
        estimator: str,
        shaping: str,
        optimizer: str,
        distribution: Distribution = "gaussian",
    ) -> Adapter:
        """The adapter after some steps of a run with such options, from the definition."""
        targets = ["q_proj", "v_proj"]
        adapter = Adapter.fresh(self.model, 0, 2, 16, targets, distribution=distribution)
        update = make_optimizer(optimizer, learning_rate=0.005)
        update.attach(adapter)
        for step in range(1, steps + 1):
            seeds = spsa.direction_seeds(0, step, 3 if estimator == "mirrored" else 6)
            numbers = [(_first(adapter, seed, 0.01), _first(adapter, seed, -0.01)) for seed in seeds]
            plus, minus = ([-0.75 * (x - OPTIMUM) ** 2 for x in side] for side in zip(*numbers, strict=True))
            mirrored = minus if estimator == "mirrored" else None
            grads = projected_grads(plus, mirrored, 0.01, shaping)
            update.update(list(zip(seeds, grads, strict=True)), 0.005, step)
        return adapter


def _first(adapter: Adapter, seed: int, coefficient: float) -> float:
    z = torch.empty_like(adapter.tensors[NUMBER])
    direction_into(z, seed, adapter.regions[NUMBER], adapter.distribution)
    return float((adapter.tensors[NUMBER].double() + coefficient * z.double())[0, 0])


def saved(out: Path, name: str = "adapter") -> dict[str, torch.Tensor]:
    return load_file(out / name / "adapter_model.safetensors")


def entries(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]

"""Countdown by evolution strategies: the setting of "Evolution Strategies at Scale", on a LoRA adapter.

    python examples/countdown/run.py                                         # SmolLM2 on a CPU, some minutes
    python examples/countdown/run.py --model-path Qwen/Qwen2.5-3B-Instruct   # the paper's numbers, on a GPU

Unusual: the model's own text is judged, not a label: 1 for an equation that reaches the target, and 0.1 for
the format. With --model-path all is as in Qiu et al. 2025 (arXiv:2509.24372): population 30, one-sided, sigma
0.001, alpha 5e-4, z-scores, 200 problems a generation, 2,000 to test on, 1,024 new tokens, greedy; but an
adapter is tuned, where they tune every weight, so a larger --sigma may be in place. Without it, a model far
too small to solve a problem learns what its size allows: to use the problem's numbers at all (graded.py).
Options that follow go to `evolve`, and through it to SGLang.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from sglang_mezo_plugin.client.launch import cpu_words

REPOSITORY = Path(__file__).resolve().parents[2]
DATA = REPOSITORY / "data"
SMOLLM2 = DATA / "smollm2-135m-instruct"

PAPER = [
    *("--population", "30", "--estimator", "one-sided", "--shaping", "z-score", "--sigma", "0.001"),
    *("--learning-rate", "5e-4", "--lora-target-modules", "all-linear", "--max-new-tokens", "1024"),
    *("--steps", "500", "--eval-steps", "50", "--eval-file", str(DATA / "countdown/test.jsonl")),
    *("--reward", "sglang_mezo_plugin.rewards.countdown:reward"),
    *("--eval-reward", "sglang_mezo_plugin.rewards.countdown:accuracy"),
]
SMALL = [
    *("--chat", "--reward", "graded:reward", "--max-new-tokens", "24", "--max-train-examples", "4"),
    *("--population", "12", "--sigma", "0.02", "--learning-rate", "0.02", "--mean", "--steps", "10"),
    *("--lora-target-modules", "q_proj", "v_proj", "--eval-file", str(DATA / "countdown/test.jsonl")),
    *("--max-eval-examples", "8", "--dtype", "float32", *cpu_words(max_total_tokens=16384)),
]


def main() -> None:
    words = sys.argv[1:]
    prepare("examples/countdown/prepare.py")
    plan = PAPER
    if "--model-path" not in words:
        prepare("examples/sentiment/prepare.py")
        plan = ["--model-path", str(SMOLLM2), *SMALL]
    command = [sys.executable, "-m", "sglang_mezo_plugin.evolve", "--launch-server", *plan]
    command += ["--train-file", str(DATA / "countdown/train.jsonl")]
    if "--output-dir" not in words:
        command += ["--output-dir", str(REPOSITORY / "runs/countdown")]
    found = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]  # `graded`
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(found)}
    sys.exit(subprocess.run([*command, *words], env=environment).returncode)


def prepare(script: str) -> None:
    status = subprocess.run([sys.executable, REPOSITORY / script, "--output-dir", DATA]).returncode
    if status != 0:
        sys.exit(status)


if __name__ == "__main__":
    main()

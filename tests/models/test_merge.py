"""Merged weights are PEFT's, tensor by tensor, whatever the checkpoint calls them."""

from pathlib import Path

import pytest
import tiny_checkpoints
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.merge import merged_tensors, write_merged


def adapter_of(checkpoint: Path, **options: object) -> Adapter:
    adapter = Adapter.fresh(checkpoint, 3, target_modules="all-linear", **options)
    torch.manual_seed(1)
    for tensor in adapter.tensors.values():
        tensor.normal_(std=0.2)
    return adapter


@pytest.mark.parametrize("name", ["opt", "opt-projected", "llama-tied", "qwen2", "gpt2"])
@pytest.mark.parametrize("layers", [None, [1]], ids=["all layers", "one layer"])
def test_merged_is_what_peft_merges(name: str, layers: list[int] | None, tmp_path: Path) -> None:
    checkpoint = tiny_checkpoints.save(name, tmp_path)
    adapter = adapter_of(checkpoint, rank=4, alpha=6, layers_to_transform=layers)
    adapter.save(tmp_path / "adapter")
    model = PeftModel.from_pretrained(tiny_checkpoints.load(checkpoint), tmp_path / "adapter")
    expected = model.merge_and_unload().state_dict()
    write_merged(tmp_path / "merged", checkpoint, adapter)
    merged, before = (tiny_checkpoints.load(f).state_dict() for f in (tmp_path / "merged", checkpoint))
    changed = 0
    for weight, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[weight], rtol=1e-6, atol=1e-6)
        changed += not torch.equal(tensor, before[weight])
    assert changed == sum(".lora_A." in tensor for tensor in adapter.tensors)


def test_the_sum_is_rounded_once(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoints.save("llama", tmp_path)
    weights = {name: w.bfloat16() for name, w in load_file(checkpoint / "model.safetensors").items()}
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    adapter = adapter_of(checkpoint, rank=1, alpha=1)
    name = "model.layers.0.self_attn.q_proj"
    a, b = (adapter.tensors[f"base_model.model.{name}.lora_{side}.weight"] for side in "AB")
    expected = (weights[f"{name}.weight"].float() + b @ a).bfloat16()
    assert torch.equal(dict(merged_tensors(checkpoint, adapter))[f"{name}.weight"], expected)


def test_a_checkpoint_without_the_weight_is_refused(tmp_path: Path) -> None:
    checkpoint = tiny_checkpoints.save("llama", tmp_path)
    adapter = adapter_of(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no model.layers.2.mlp.up_proj.weight, which"):
        list(merged_tensors(checkpoint, adapter))

"""Adapters next to PEFT's own: how they begin, what is saved, and what of PEFT's is loaded."""

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_checkpoints import Tensors, equal
from transformers import AutoModelForCausalLM

from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.peft_files import CONFIG, WEIGHTS
from sglang_mezo_plugin.noise import Region, parameter_id
from sglang_mezo_plugin.noise.philox import philox4x32

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

TARGETS = {
    "opt": ["q_proj", "fc1"],
    "opt-projected": ["fc2"],
    "llama": ["o_proj", "gate_proj"],
    "qwen2": ["self_attn.k_proj"],
    "gpt2": ["c_attn", "c_proj"],
}
A_OF_FC1 = "base_model.model.model.decoder.layers.1.fc1.lora_A.weight"
A_OF_FC2 = "base_model.model.model.decoder.layers.1.fc2.lora_A.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda name: tiny_checkpoints.save(name, tmp_path_factory.mktemp("models")))


def peft_model(checkpoint: Path, **options: Any) -> PeftModel:
    options = {"fan_in_fan_out": checkpoint.name == "gpt2", "task_type": "CAUSAL_LM", **options}
    return get_peft_model(AutoModelForCausalLM.from_pretrained(checkpoint), LoraConfig(**options))


def randomise(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        tensor.normal_(generator=torch.Generator().manual_seed(parameter_id(name)))


@pytest.mark.parametrize("layers", [None, [2, 0]])
@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("name", TARGETS)
def test_fresh_is_what_peft_begins_with(
    name: str, named: bool, layers: list[int] | None, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    path, targets = checkpoint(name), TARGETS[name] if named else None
    ours = Adapter.fresh(path, 1, rank=4, alpha=12, target_modules=targets, layers_to_transform=layers)
    theirs = peft_model(path, r=4, lora_alpha=12, target_modules=targets, layers_to_transform=layers)
    expected = get_peft_model_state_dict(theirs)
    assert [(key, tensor.shape) for key, tensor in ours.tensors.items()] == [
        (key, tensor.shape) for key, tensor in expected.items()
    ]
    zero = {key for key, tensor in ours.tensors.items() if not tensor.any()}
    assert zero == {key for key, tensor in expected.items() if not tensor.any()}
    assert zero == {key for key in expected if ".lora_B." in key}

    ours.save(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    written, config = (json.loads((tmp_path / who / CONFIG).read_text()) for who in ("ours", "theirs"))
    assert written == config | {"target_modules": sorted(config["target_modules"])}
    assert written["base_model_name_or_path"] == str(path) and written["inference_mode"] is True


@pytest.mark.parametrize("name", TARGETS)
def test_all_linear(name: str, checkpoint: Callable[[str], Path]) -> None:
    """PEFT takes it for all layers only, and adapts what some OPTs have before and after the layers too."""
    expected = get_peft_model_state_dict(peft_model(checkpoint(name), target_modules="all-linear"))
    expected = {key: tensor.shape for key, tensor in expected.items() if ".project_" not in key}
    for targets in ("all-linear", ["all-linear"]):
        ours = Adapter.fresh(checkpoint(name), 1, target_modules=targets)
        assert {key: tensor.shape for key, tensor in ours.tensors.items()} == expected
    some = Adapter.fresh(checkpoint(name), 1, target_modules="all-linear", layers_to_transform=[1])
    assert some.tensors.keys() == {key for key in expected if ".1." in key}


def test_a_is_uniform_and_of_seed_and_parameter_alone(checkpoint: Callable[[str], Path]) -> None:
    def fresh(seed: int, rank: int = 250, **options: Any) -> Tensors:
        return Adapter.fresh(checkpoint("opt"), seed, rank=rank, **options).tensors

    tensors = fresh(7, target_modules=["fc1", "fc2"])
    for key, columns in ((A_OF_FC1, 32), (A_OF_FC2, 48)):
        a, bound = tensors[key].double(), 1 / math.sqrt(columns)
        assert a.shape == (250, columns) and tensors[key].dtype == torch.float32
        assert 0.999 * bound < a.abs().max() <= bound
        uniform = (torch.arange(a.numel()) + 0.5) / a.numel() * 2 * bound - bound
        assert (a.flatten().sort().values - uniform).abs().max() < 1.63 * 2 * bound / math.sqrt(a.numel())
    distinct = [tensors[key].flatten()[:1000] for key in tensors if ".lora_A." in key]
    distinct += [fresh(seed, target_modules=["fc1"])[A_OF_FC1].flatten()[:1000] for seed in (8, 7 + 2**32)]
    scaled = torch.stack([numbers / numbers.abs().max() for numbers in distinct])
    assert (torch.corrcoef(scaled) - torch.eye(len(distinct))).abs().max() < 0.15
    others = fresh(7, target_modules="all-linear", layers_to_transform=[1])
    assert others[A_OF_FC1].equal(tensors[A_OF_FC1])
    assert fresh(7, rank=3, target_modules=["fc1"])[A_OF_FC1].equal(tensors[A_OF_FC1][:3])


def test_a_known_answer(checkpoint: Callable[[str], Path]) -> None:
    """Block 1 of stream 2 gives elements 4 to 7, (top 24 bits + 1/2) / 2**23 - 1 times the bound each."""
    seed = 5 + (9 << 32)
    a = Adapter.fresh(checkpoint("opt"), seed, rank=1, target_modules=["fc1"]).tensors[A_OF_FC1]
    counter = tuple(np.array([word], np.uint32) for word in (1, 0, 9, 2))
    words = philox4x32(counter, (np.uint32(5), np.uint32(parameter_id(A_OF_FC1))))
    expected = [((int(word[0]) >> 8) + 0.5) / 2**23 - 1 for word in words]
    assert (a[0, 4:8] * math.sqrt(32)).tolist() == pytest.approx(expected, rel=2e-7)


@pytest.mark.parametrize("name", TARGETS)
def test_a_saved_adapter_loads(name: str, checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    path, folder = checkpoint(name), tmp_path / "made" / "adapter"
    adapter = Adapter.fresh(path, 1, target_modules="all-linear", layers_to_transform=[0, 1])
    randomise({key: tensor for key, (tensor, _) in adapter.parameters().items()})
    adapter.save(folder)
    assert not adapter.config.inference_mode
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert files.keys() == {CONFIG, WEIGHTS}
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(path), folder)
    assert equal(get_peft_model_state_dict(theirs), adapter.tensors)
    again = Adapter.load(folder, path)
    assert equal(again.tensors, adapter.tensors) and list(again.tensors) == list(adapter.tensors)
    assert again.regions == {key: Region.whole(key, tensor.shape) for key, tensor in adapter.tensors.items()}
    again.save(folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    assert json.loads(files[CONFIG])["target_modules"] == sorted(adapter.config.target_modules)


@pytest.mark.parametrize(
    "options",
    [
        {"modules_to_save": []},
        {"target_modules": "all-linear", "r": 2},
        {"target_modules": r".*\.[02]\..*(q_proj|fc1)", "use_rslora": True, "lora_alpha": 3},
        {"target_modules": ["q_proj", "fc1"], "exclude_modules": ["fc1"], "layers_to_transform": 1},
        {
            "target_modules": ["fc2"],
            "lora_dropout": 0.1,
            "init_lora_weights": "orthogonal",
            "revision": "main",
        },
        {"target_modules": ["fc2"], "task_type": None, "init_lora_weights": False},
    ],
    ids=str,
)
def test_adapters_made_by_peft(
    options: dict[str, Any], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """Stored in half precision, and made from a checkpoint that has another name elsewhere."""
    path = checkpoint("opt")
    theirs = peft_model(path, **options)
    randomise(get_peft_model_state_dict(theirs))
    theirs.save_pretrained(tmp_path)
    stored = {key: tensor.half() for key, tensor in load_file(tmp_path / WEIGHTS).items()}
    save_file(stored, tmp_path / WEIGHTS)
    config = json.loads((tmp_path / CONFIG).read_text()) | {"base_model_name_or_path": "somebody/opt"}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    adapter = Adapter.load(tmp_path, path)
    assert equal(adapter.tensors, {key: tensor.float() for key, tensor in stored.items()})
    adapter.save(tmp_path / "again")
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    assert json.loads((tmp_path / "again" / CONFIG).read_text()) == config

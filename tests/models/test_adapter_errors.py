"""Adapters that do not fit the model, or that are more than LoRA, are refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_checkpoints
import torch
from peft import AdaLoraConfig, PrefixTuningConfig
from safetensors.torch import load_file, save_file
from transformers import OlmoConfig, RobertaConfig

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.adapter import Adapter
from sglang_mezo_plugin.models.peft_files import CONFIG, WEIGHTS

pytestmark = pytest.mark.filterwarnings("error::UserWarning")

CHOICES = "choose from fc1, fc2, k_proj, out_proj, q_proj, v_proj, or all-linear alone"
A = "base_model.model.model.decoder.layers.1.self_attn.q_proj.lora_A.weight"


@pytest.fixture(scope="module")
def opt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.save("opt", tmp_path_factory.mktemp("model"))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(UserError) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message and len(message) < 700
    return message


@pytest.mark.parametrize("rank", [0, -1])
def test_ranks(rank: int, opt: Path) -> None:
    assert refusal(lambda: Adapter.fresh(opt, 1, rank=rank)) == f"--lora-rank must be at least 1, not {rank}"


@pytest.mark.parametrize(
    ("targets", "reason"),
    [
        (["q_proj", "query"], "the model has no 'query'"),
        ("c_attn", "the model has no 'c_attn'"),
        (["q_proj", "all-linear"], "the model has no 'all-linear'"),
        (["roj"], "the model has no 'roj'"),
        (["q_proj", "lm_head"], "lm_head is no linear module of the decoder layers"),
        (["embed_tokens"], "model.decoder.embed_tokens is no linear module of the decoder layers"),
        (["self_attn"], "model.decoder.layers.0.self_attn is no linear module of the decoder layers"),
    ],
)
def test_modules(targets: str | list[str], reason: str, opt: Path) -> None:
    message = refusal(lambda: Adapter.fresh(opt, 1, target_modules=targets))
    assert message == f"--lora-target-modules: {reason}: {CHOICES}"


def test_no_module(opt: Path) -> None:
    message = refusal(lambda: Adapter.fresh(opt, 1, target_modules=[]))
    assert message.startswith("--lora-target-modules: No `target_modules` passed")
    assert message.endswith(f": {CHOICES}")


def test_a_name_that_is_outside_the_layers_too(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    RobertaConfig(is_decoder=True, **sizes).save_pretrained(tmp_path)
    message = refusal(lambda: Adapter.fresh(tmp_path, 1, target_modules=["query", "dense"]))
    assert message.startswith("--lora-target-modules: lm_head.dense is no linear module of the decoder")


@pytest.mark.parametrize("layer", [3, -1])
def test_layers(layer: int, opt: Path) -> None:
    message = refusal(lambda: Adapter.fresh(opt, 1, layers_to_transform=[0, layer]))
    assert message == f"--lora-layers-to-transform: no layer {layer}: choose from 0 to 2"


def test_an_architecture_for_which_peft_has_no_choice(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    OlmoConfig(**sizes).save_pretrained(tmp_path)
    message = refusal(lambda: Adapter.fresh(tmp_path, 1))
    assert message.startswith("--lora-target-modules: Please specify `target_modules`")
    assert "choose from down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in message
    assert len(Adapter.fresh(tmp_path, 1, target_modules="all-linear").tensors) == 14


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1])


def configured(**options: object) -> Callable[[Path], object]:
    def configure(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps(config | options))

    return configure


def stored(**tensors: torch.Tensor | None) -> Callable[[Path], object]:
    """Add tensors, or remove those that are None."""

    def store(folder: Path) -> None:
        kept = load_file(folder / WEIGHTS) | tensors
        save_file({name: tensor for name, tensor in kept.items() if tensor is not None}, folder / WEIGHTS)

    return store


def plain(field: str) -> str:
    return f"IT/{CONFIG}: {field}, but only plain LoRA can be trained: choose another"


FAULTS: list[tuple[Callable[[Path], object], str]] = [
    (remove(WEIGHTS), f"IT has no {WEIGHTS}: name the folder of a PEFT adapter"),
    (remove(CONFIG), f"IT has no {CONFIG}: name the folder of a PEFT adapter"),
    (cut, f"IT/{WEIGHTS} cannot be read (Error while deserializing header"),
    (write(CONFIG, b"{"), f"IT/{CONFIG} cannot be read (Expecting"),
    (write(CONFIG, b"[]"), f"IT/{CONFIG} cannot be read ("),
    (configured(peft_type="MAGIC"), f"IT/{CONFIG} cannot be read ('MAGIC'): save the adapter again"),
    (configured(target_modules="q_proj", layers_to_transform=[1]), f"IT/{CONFIG} cannot be read (`layers_to"),
    (configured(target_modules=["c_attn"]), "IT does not fit OPT: Target modules {'c_attn'} not found"),
    (configured(target_modules=["q_proj"]), "v_proj.lora_A.weight is [4, 32], but should be absent: choose"),
    (configured(r=2), "q_proj.lora_A.weight is [4, 32], but should be [2, 32]: choose another adapter"),
    (stored(**{A: None}), f"IT does not fit OPT: {A} is absent, but should be [4, 32]: choose"),
    (stored(more=torch.zeros(1)), "IT does not fit OPT: more is no linear module of its decoder layers"),
    (configured(use_dora=True), plain("use_dora is True")),
    (configured(bias="all"), plain("bias is all")),
    (configured(lora_bias=True), plain("lora_bias is True")),
    (configured(modules_to_save=["lm_head"]), plain("modules_to_save is ['lm_head']")),
    (configured(rank_pattern={"q_proj": 2}), plain("rank_pattern is {'q_proj': 2}")),
    (configured(alpha_pattern={"q_proj": 2}), plain("alpha_pattern is {'q_proj': 2}")),
    (configured(trainable_token_indices=[3]), plain("trainable_token_indices is [3]")),
    (configured(layer_replication=[[0, 2]]), plain("layer_replication is [[0, 2]]")),
    (configured(init_lora_weights="pissa"), plain("init_lora_weights is pissa")),
    (AdaLoraConfig(total_step=9).save_pretrained, plain("peft_type is ADALORA")),
    (PrefixTuningConfig(num_virtual_tokens=3).save_pretrained, plain("peft_type is PREFIX_TUNING")),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), FAULTS, ids=[message for _, message in FAULTS])
def test_folders(spoil: Callable[[Path], object], message: str, opt: Path, tmp_path: Path) -> None:
    Adapter.fresh(opt, 1, rank=4).save(tmp_path)
    assert Adapter.load(tmp_path, opt).config.r == 4
    spoil(tmp_path)
    found = refusal(lambda: Adapter.load(tmp_path, opt))
    assert message in found.replace(str(tmp_path), "IT").replace(str(opt), "OPT")


@pytest.mark.parametrize(("target", "kind"), [("lm_head", "lora_"), ("embed_tokens", "lora_embedding_")])
def test_what_is_outside_the_layers(target: str, kind: str, opt: Path, tmp_path: Path) -> None:
    Adapter.fresh(opt, 1, rank=4).save(tmp_path)
    configured(target_modules=[target])(tmp_path)
    module = {"lm_head": "lm_head", "embed_tokens": "model.decoder.embed_tokens"}[target]
    suffix = ".weight" if target == "lm_head" else ""
    shapes = {"A": (4, 32), "B": (61, 4)} if target == "lm_head" else {"A": (4, 61), "B": (32, 4)}
    names = {f"base_model.model.{module}.{kind}{side}{suffix}": shape for side, shape in shapes.items()}
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / WEIGHTS)
    message = refusal(lambda: Adapter.load(tmp_path, opt))
    assert f"does not fit {opt}: {module} is no linear module of its decoder layers: choose" in message


def test_another_model(opt: Path, tmp_path: Path) -> None:
    Adapter.fresh(tiny_checkpoints.save("gpt2", tmp_path), 1).save(tmp_path / "adapter")
    message = refusal(lambda: Adapter.load(tmp_path / "adapter", opt))
    misfit = f"{tmp_path}/adapter does not fit {opt}: transformer.h.0.attn.c_attn is no linear module"
    assert message.startswith(misfit)


def test_a_folder_that_cannot_be_made(opt: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refusal(lambda: Adapter.fresh(opt, 1).save(tmp_path / "file" / "adapter"))
    assert message.startswith(f"{tmp_path}/file/adapter cannot be written ([Errno 20] Not a directory")

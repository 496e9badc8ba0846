"""A checkpoint that cannot be found, read or written gives one line that names it."""

import json
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects
from tiny_checkpoints import save

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import (
    find_checkpoint,
    load_architecture,
    read_config,
    read_tensors,
    tensor_shapes,
)
from sglang_mezo_plugin.models.writing import write_checkpoint

INDEX = "model.safetensors.index.json"


def write(name: str, content: bytes | str) -> Callable[[Path], object]:
    data = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(data)


def lose_a_shard(folder: Path) -> None:
    (folder / INDEX).write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "second.safetensors"}})
    )


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def only_bin(data: bytes) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "pytorch_model.bin").write_bytes(data)

    return spoil


def tensors(folder: Path) -> list[tuple[str, torch.Tensor]]:
    return list(read_tensors(folder))


def find(folder: Path) -> Path:
    return find_checkpoint(str(folder))


FAULTS: list[tuple[Callable[[Path], object], Callable[[Path], object], str]] = [
    (lambda folder: (folder / "config.json").unlink(), find, "--model-path IT has no config.json: name a"),
    (write("config.json", "{"), read_config, "IT/config.json is not JSON (Expecting"),
    (write("config.json", b"\xff{}"), read_config, "IT/config.json is not JSON ('utf-8' codec"),
    (write("config.json", "[]"), load_architecture, "IT/config.json is not a JSON object: fetch"),
    (write("config.json", "{}"), load_architecture, "IT/config.json is not of a causal language model that"),
    (write("config.json", '{"model_type": "t5"}'), load_architecture, "(Unrecognized configuration class"),
    (write(INDEX, "{"), tensor_shapes, f"IT/{INDEX} is not JSON (Expecting"),
    (write(INDEX, "{}"), tensor_shapes, f"IT/{INDEX} lists no weights: fetch the model again"),
    (lose_a_shard, tensor_shapes, "IT/second.safetensors is missing: fetch the model again"),
    (lose_a_shard, tensors, "IT/second.safetensors is missing: fetch the model again"),
    (cut, tensors, "IT/model.safetensors is not a safetensors file (Error while deserializing header"),
    (cut, tensor_shapes, "IT/model.safetensors is not a safetensors file (Error while deserializing header"),
    (
        write("model.safetensors", "version https://git-lfs.github.com/spec/v1"),
        tensor_shapes,
        "IT/model.safetensors is not a safetensors file",
    ),
    (only_bin(b""), tensors, "IT/pytorch_model.bin is not a file of tensors (EOFError): fetch"),
    (
        only_bin(b"PK\3\4" + bytes(99)),
        tensors,
        "IT/pytorch_model.bin is not a file of tensors (PytorchStream",
    ),
    (only_bin(b"version"), tensor_shapes, "IT/pytorch_model.bin is not a file of tensors (Weights only load"),
    (
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: write_checkpoint(folder / "out", folder, {"a": 4}, [("a", torch.zeros(1))]),
        "config.json is not JSON",
    ),
    (
        lambda folder: None,
        lambda folder: write_checkpoint(folder / "config.json" / "out", folder, {}, []),
        "IT/config.json/out cannot be written ([Errno 20] Not a directory",
    ),
]


@pytest.mark.parametrize(("spoil", "call", "message"), FAULTS, ids=[message for *_, message in FAULTS])
def test_faults(
    spoil: Callable[[Path], object], call: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = save("opt", tmp_path)
    spoil(folder)
    with pytest.raises(UserError) as raised:
        call(folder)
    assert message.replace("IT", str(folder)) in str(raised.value)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 600


def test_a_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of the working folder too, whose name could be one on the hub."""
    folder = save("opt", tmp_path)
    assert find_checkpoint(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert find_checkpoint("opt") == Path("opt")


OFFLINE = "nor to be had from the hub (Cannot find an appropriate cached snapshot folder"
NO_NAME = "nor to be had from the hub (Repo id must use alphanumeric chars"
NO_FOLDER = ": no such folder: name a Hugging Face checkpoint"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("model_path", "message"),
    [
        ("nobody/nothing", OFFLINE),
        ("nothing", OFFLINE),
        ("two words", NO_NAME),
        ("nothing/", NO_NAME),
        ("/nothing", NO_FOLDER),
        ("./nothing", NO_FOLDER),
        ("../nothing", NO_FOLDER),
        ("~/nothing", NO_FOLDER),
        ("out/of/nothing", NO_FOLDER),
        (__file__, NO_FOLDER),
    ],
)
def test_what_is_not_there(
    model_path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        find_checkpoint(model_path)
    assert str(raised.value).startswith(f"--model-path {model_path}: no such folder")
    assert message in str(raised.value) and "\n" not in str(raised.value)


CONFIG = ["config.json", "tokenizer.json", "generation_config.json"]
REPOSITORIES = {
    "all formats": (
        ["model.safetensors"],
        ["pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "onnx/decoder.onnx"],
    ),
    "in shards": (
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", INDEX],
        ["consolidated.safetensors", "original/consolidated.00.pth", "pytorch_model-00001-of-00001.bin"],
    ),
    "bin alone": (
        ["pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"],
        ["training_args.bin", "flax_model.msgpack"],
    ),
}


@pytest.mark.parametrize(("wanted", "unwanted"), REPOSITORIES.values(), ids=REPOSITORIES)
def test_one_format_is_downloaded(
    wanted: list[str], unwanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, **patterns: list[str]) -> str:
        assert name == "somebody/model"
        for file in filter_repo_objects([*CONFIG, *wanted, *unwanted], **patterns):
            (tmp_path / file).parent.mkdir(exist_ok=True)
            (tmp_path / file).touch()
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_checkpoint("somebody/model") == tmp_path
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {*CONFIG, *wanted}

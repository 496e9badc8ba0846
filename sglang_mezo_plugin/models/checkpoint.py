"""Hugging Face checkpoints on disk: where they are, and what is in them."""

from __future__ import annotations

import json
import pickle
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from sglang_mezo_plugin.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Weights that nothing here reads; hub repositories often have the same ones in several formats.
OTHER_FORMATS = (".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf", ".ot", ".tflite")
FETCH_AGAIN = "fetch the model again"


def find_checkpoint(model_path: str) -> Path:
    """Return the folder of a model: a path, or a name on the Hugging Face hub, downloaded if need be."""
    folder = Path(model_path)
    if not folder.exists() and model_path.count("/") <= 1 and not model_path.startswith((".", "/", "~")):
        folder = _download(model_path)
    if not folder.is_dir():
        raise UserError(f"--model-path {model_path}: no such folder: name a Hugging Face checkpoint")
    if not (folder / "config.json").is_file():
        raise UserError(f"--model-path {model_path} has no config.json: name a Hugging Face checkpoint")
    return folder


def read_config(folder: Path) -> dict[str, Any]:
    """Return what config.json says. UserError if that is no JSON object."""
    return _read_object(folder / "config.json")


def checkpoint_dtype(checkpoint: Path) -> torch.dtype:
    """Return the dtype that a checkpoint says it has; fp32 if it does not."""
    config = read_config(checkpoint)
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    return getattr(torch, name)


def weight_files(folder: Path) -> list[Path]:
    """Return the files with a checkpoint's weights; none for a folder with a configuration only.

    Safetensors are preferred, and where an index lists files, those that it lists. UserError if one of these
    is missing.
    """
    for pattern in ("*.safetensors", "pytorch_model*.bin"):
        if indexes := sorted(folder.glob(f"{pattern}.index.json")):
            return _files_of_index(indexes[0])
        if files := sorted(folder.glob(pattern)):
            return [file for file in files if file.stem in ("model", "pytorch_model")] or files
    return []


def read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each tensor by name, on the CPU, one at a time."""
    for file in weight_files(folder):
        if file.suffix == ".safetensors":
            with _open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                    yield name, tensors.get_tensor(name)
        else:
            yield from _load(file).items()


def tensor_shapes(folder: Path) -> dict[str, torch.Size]:
    """Return the shape of each tensor by name; without weight files those that transformers would save."""
    files = weight_files(folder)
    if not files:
        model = load_architecture(folder)
        return {
            name: tensor.shape
            for name, tensor in model.state_dict().items()
            if name not in model.all_tied_weights_keys
        }
    shapes: dict[str, torch.Size] = {}
    for file in files:
        if file.suffix == ".safetensors":
            with _open(file) as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    shapes[name] = torch.Size(tensors.get_slice(name).get_shape())
        else:
            shapes.update({name: tensor.shape for name, tensor in _load(file).items()})
    return shapes


def load_architecture(folder: Path) -> PreTrainedModel:
    """Return the model of a config.json without weights: its parameters are on the meta device.

    UserError if it is not a causal language model that transformers knows.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    read_config(folder)
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:  # each architecture refuses its own options, with exceptions of any kind
        raise UserError(
            f"{folder / 'config.json'} is not of a causal language model that transformers knows "
            f"({one_line(error)}): name another model"
        ) from error


def one_line(error: Exception) -> str:
    """Return what an exception of another library says, briefly, for a UserError's message."""
    return textwrap.shorten(str(error).rstrip(". \n"), 300, placeholder=" ...") or type(error).__name__


def _read_object(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}): {FETCH_AGAIN}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} is not a JSON object: {FETCH_AGAIN}")
    return content


def _files_of_index(index: Path) -> list[Path]:
    weight_map = _read_object(index).get("weight_map")
    if not weight_map:
        raise UserError(f"{index} lists no weights: {FETCH_AGAIN}")
    files = [index.with_name(name) for name in sorted(set(weight_map.values()))]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing: {FETCH_AGAIN}")
    return files


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} is not a safetensors file ({error}): {FETCH_AGAIN}") from None


def _load(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a .bin file, mapped from the disk unless it has the format before torch 1.6."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise UserError(f"{file} is not a file of tensors ({one_line(error)}): {FETCH_AGAIN}") from None


def _download(name: str) -> Path:
    from httpx import HTTPError
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    ignored = [f"*{suffix}" for suffix in OTHER_FORMATS] + ["consolidated*"]
    try:
        folder = Path(snapshot_download(name, ignore_patterns=[*ignored, "*.bin"]))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(name, allow_patterns="pytorch_model*.bin")
    except (HFValidationError, HTTPError, OSError) as error:
        raise UserError(
            f"--model-path {name}: no such folder, nor to be had from the hub ({one_line(error)}): check the "
            "name and the network"
        ) from None
    return folder

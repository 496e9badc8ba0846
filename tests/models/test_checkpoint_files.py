"""Checkpoints are read in every format, and written so that transformers reads them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import CONFIGS, equal, load, save

from sglang_mezo_plugin.models import checkpoint as checkpoint_files
from sglang_mezo_plugin.models.checkpoint import (
    read_tensors,
    tensor_shapes,
    weight_files,
    write_checkpoint,
)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.decoder.embed_tokens.weight", "lm_head.weight"


def save_bin(folder: Path, shards: int = 1, legacy: bool = False, tied: bool = False) -> Path:
    """Save an OPT as older versions of transformers did."""
    base = save("opt", folder)
    tensors = load_file(base / WEIGHTS)
    (base / WEIGHTS).unlink()
    if tied:
        tensors[HEAD] = tensors[EMBEDDING]
    files = ["pytorch_model.bin"]
    if shards > 1:
        files = [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
        weight_map = {name: files[i % shards] for i, name in enumerate(tensors)}
        (base / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    for i, file in enumerate(files):
        part = dict(list(tensors.items())[i::shards])
        torch.save(part, base / file, _use_new_zipfile_serialization=not legacy)
    return base


def save_beside_another(folder: Path) -> Path:
    base = save("opt", folder)
    save_file({"layers.0.weight": torch.ones(1)}, base / "consolidated.safetensors")
    return base


def save_without_index(folder: Path) -> Path:
    base = save("opt", folder, max_shard_size="20KB")
    (base / INDEX).unlink()
    return base


FORMATS: dict[str, Callable[[Path], Path]] = {
    "safetensors": lambda folder: save("opt", folder),
    "safetensors beside those of another format": save_beside_another,
    "safetensors in shards": lambda folder: save("opt", folder, max_shard_size="20KB"),
    "safetensors in shards without an index": save_without_index,
    "bin": save_bin,
    "bin in shards": lambda folder: save_bin(folder, shards=3),
    "bin from before torch 1.6": lambda folder: save_bin(folder, legacy=True),
    "bin with the tied head": lambda folder: save_bin(folder, tied=True),
}


@pytest.mark.parametrize("form", FORMATS)
def test_round_trip(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_file(save("opt", tmp_path / "expected") / WEIGHTS)
    if "tied" in form:
        expected[HEAD] = expected[EMBEDDING]
    base, out, shards = FORMATS[form](tmp_path), tmp_path / "made" / "out", tmp_path / "shards"
    assert (len(weight_files(base)) > 1) == ("shards" in form)
    assert equal(dict(read_tensors(base)), expected)
    assert tensor_shapes(base) == {name: tensor.shape for name, tensor in expected.items()}
    write_checkpoint(out, base, read_tensors(base))
    assert [file.name for file in weight_files(out)] == [WEIGHTS]
    monkeypatch.setattr(checkpoint_files, "SHARD_BYTES", 20_000)
    write_checkpoint(shards, out, read_tensors(out))
    assert len(weight_files(shards)) > 3
    for folder in (out, shards):
        assert equal(dict(read_tensors(folder)), expected)
        loaded = load(folder).state_dict()
        assert equal({name: loaded[name] for name in expected}, expected)


def test_shards_are_as_large_as_they_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, out = save("opt", tmp_path), tmp_path / "out"
    tensors = {name: torch.zeros(count) for name, count in zip("abcdef", (3, 2, 1, 7, 4, 1), strict=True)}
    monkeypatch.setattr(checkpoint_files, "SHARD_BYTES", 5 * 4)
    write_checkpoint(out, base, tensors.items())
    assert [list(load_file(file)) for file in weight_files(out)] == [["a", "b"], ["c"], ["d"], ["e", "f"]]
    index = json.loads((out / INDEX).read_text())
    assert index["metadata"] == {"total_size": 18 * 4}
    assert index["weight_map"]["d"] == weight_files(out)[2].name == "model-00003-of-00004.safetensors"


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_without_weights_are_those_of_the_saved_model(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path)
    expected = {key: tensor.shape for key, tensor in load_file(folder / WEIGHTS).items()}
    assert tensor_shapes(folder) == expected
    (folder / WEIGHTS).unlink()
    assert tensor_shapes(folder) == expected
    assert (HEAD in expected) == (not CONFIGS[name].tie_word_embeddings)

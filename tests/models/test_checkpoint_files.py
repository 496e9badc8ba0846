"""Checkpoints are read in every format, and written so that transformers reads them."""

import json
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import CONFIGS, equal, load, save, sizes

from sglang_mezo_plugin.models import writing
from sglang_mezo_plugin.models.checkpoint import (
    read_tensors,
    tensor_shapes,
    weight_files,
)
from sglang_mezo_plugin.models.writing import write_checkpoint

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
    write_checkpoint(out, base, sizes(expected), read_tensors(base))
    assert [file.name for file in weight_files(out)] == [WEIGHTS]
    monkeypatch.setattr(writing, "SHARD_BYTES", 20_000)
    write_checkpoint(shards, out, sizes(expected), read_tensors(out))
    assert len(weight_files(shards)) > 3
    for folder in (out, shards):
        assert equal(dict(read_tensors(folder)), expected)
        loaded = load(folder).state_dict()
        assert equal({name: loaded[name] for name in expected}, expected)


def test_shards_are_as_large_as_they_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor that is too large for any has a shard of its own, and its neighbours share one."""
    base, out = save("opt", tmp_path), tmp_path / "out"
    tensors = {name: torch.zeros(count) for name, count in zip("abcdef", (3, 2, 1, 7, 4, 1), strict=True)}
    monkeypatch.setattr(writing, "SHARD_BYTES", 5 * 4)
    write_checkpoint(out, base, sizes(tensors), tensors.items())
    assert [list(load_file(file)) for file in weight_files(out)] == [["a", "b"], ["d"], ["c", "e"], ["f"]]
    index = json.loads((out / INDEX).read_text())
    assert index["metadata"] == {"total_size": 18 * 4}
    assert index["weight_map"]["d"] == weight_files(out)[1].name == "model-00002-of-00004.safetensors"


def test_a_shard_is_written_and_forgotten_before_the_next_tensor_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, out = save("opt", tmp_path), tmp_path / "out"
    monkeypatch.setattr(writing, "SHARD_BYTES", 8)
    kept: list[weakref.ref[torch.Tensor]] = []

    def save_noted(tensors: dict[str, torch.Tensor], *args: object, **options: object) -> None:
        kept.extend(map(weakref.ref, tensors.values()))
        save_file(tensors, *args, **options)

    def made() -> Iterator[tuple[str, torch.Tensor]]:
        for number, name in enumerate("abcdef"):
            assert len(kept) == number // 2 * 2 and not any(tensor() is not None for tensor in kept)
            yield name, torch.zeros(1)

    monkeypatch.setattr(writing, "save_file", save_noted)
    write_checkpoint(out, base, dict.fromkeys("abcdef", 4), made())
    assert len(weight_files(out)) == 3


def test_a_tensor_that_two_files_have_is_written_once(tmp_path: Path) -> None:
    base, out = save("opt", tmp_path), tmp_path / "out"
    expected = dict(read_tensors(base))
    write_checkpoint(out, base, sizes(expected), [*read_tensors(base), *read_tensors(base)])
    assert equal(dict(read_tensors(out)), expected)


def test_a_tensor_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    base = save("opt", tmp_path)
    with pytest.raises(ValueError, match=r"no tensor came for b, c$"):
        write_checkpoint(tmp_path / "out", base, {"c": 4, "a": 4, "b": 4}, [("a", torch.zeros(1))])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_without_weights_are_those_of_the_saved_model(name: str, tmp_path: Path) -> None:
    folder = save(name, tmp_path)
    expected = {key: tensor.shape for key, tensor in load_file(folder / WEIGHTS).items()}
    assert tensor_shapes(folder) == expected
    (folder / WEIGHTS).unlink()
    assert tensor_shapes(folder) == expected
    assert (HEAD in expected) == (not CONFIGS[name].tie_word_embeddings)

"""What is written beside the weights, and that a checkpoint is never half replaced."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_checkpoints import equal, load, save, sizes
from transformers import AutoConfig

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import read_tensors
from sglang_mezo_plugin.models.writing import replace_folder, write_checkpoint

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EMBEDDING, HEAD = "model.decoder.embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize("key", ["dtype", "torch_dtype", None])
def test_the_config_names_the_dtype_of_most_weights(key: str | None, tmp_path: Path) -> None:
    base, out = save("llama", tmp_path), tmp_path / "out"
    config = json.loads((base / "config.json").read_text())
    del config["dtype"]
    (base / "config.json").write_text(json.dumps(config | ({key: "float32"} if key else {})))
    norms = {name: tensor for name, tensor in read_tensors(base) if "norm" in name}
    halves = {name: tensor.bfloat16() for name, tensor in read_tensors(base) if name not in norms}
    write_checkpoint(out, base, sizes(norms | halves), (norms | halves).items())
    assert AutoConfig.from_pretrained(out).dtype == torch.bfloat16
    written = json.loads((out / "config.json").read_text())
    assert written == config | {key or "torch_dtype": "bfloat16"}
    assert equal(dict(read_tensors(out)), norms | halves)


def test_all_but_weights_is_copied(tmp_path: Path) -> None:
    base, out = save("opt", tmp_path, max_shard_size="20KB"), tmp_path / "out"
    copied = ["tokenizer.json", "tokenizer.model", "chat_template.jinja", "LICENSE"]
    left = ["pytorch_model.bin", "consolidated.00.pth", "tf_model.h5", "flax_model.msgpack", "a.gguf", "a.ot"]
    for name in (*copied, *left):
        (base / name).write_text(name)
    write_checkpoint(out, base, sizes(dict(read_tensors(base))), read_tensors(base))
    expected = {*copied, "config.json", "generation_config.json", WEIGHTS}
    assert {file.name for file in out.iterdir()} == expected
    for name in expected - {"config.json", WEIGHTS}:
        assert (out / name).read_bytes() == (base / name).read_bytes()


def test_a_checkpoint_can_replace_the_one_it_is_made_from(tmp_path: Path) -> None:
    base = save("opt", tmp_path)
    halves = {name: tensor.half() for name, tensor in read_tensors(base)}
    for left_by_a_kill in ("opt.old", "opt.unfinished"):
        (tmp_path / left_by_a_kill).mkdir()
        (tmp_path / left_by_a_kill / INDEX).touch()
    as_halves = ((name, tensor.half()) for name, tensor in read_tensors(base))
    write_checkpoint(base, base, sizes(halves), as_halves)
    assert equal(dict(read_tensors(base)), halves)
    assert [path.name for path in tmp_path.iterdir()] == ["opt"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, UserError])
def test_a_failure_leaves_the_old_checkpoint(error: type[BaseException], tmp_path: Path) -> None:
    base = save("opt", tmp_path)
    expected = dict(read_tensors(base))

    def failing() -> Iterator[tuple[str, torch.Tensor]]:
        yield EMBEDDING, torch.zeros(61, 32)
        raise error

    with pytest.raises(error):
        write_checkpoint(base, base, sizes(expected), failing())
    assert equal(dict(read_tensors(base)), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["opt"]


@pytest.mark.parametrize(
    ("kill_at", "left"),
    [
        (0, {"new": "new", "it": "it", "it.old": "it.old"}),
        (1, {"new": "new", "it": "it"}),
        (2, {"new": "new", "it.old": "it"}),
        (3, {"it": "new", "it.old": "it"}),
    ],
)
def test_a_kill_while_replacing_leaves_a_whole_one(
    kill_at: int, left: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("new", "it", "it.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    calls = iter(range(4))

    def killed(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            if next(calls) == kill_at:
                raise KeyboardInterrupt
            return real(*args, **options)

        return call

    monkeypatch.setattr(shutil, "rmtree", killed(shutil.rmtree))
    monkeypatch.setattr(Path, "rename", killed(Path.rename))
    with pytest.raises(KeyboardInterrupt):
        replace_folder(tmp_path / "new", tmp_path / "it")
    assert {path.name: (path / "content").read_text() for path in tmp_path.iterdir()} == left


@pytest.mark.parametrize(("name", "embedding"), [("opt", EMBEDDING), ("gpt2", "transformer.wte.weight")])
def test_a_stored_copy_of_tied_weights_may_be_left_out(name: str, embedding: str, tmp_path: Path) -> None:
    """An engine that ties them holds, and gives back, the embedding alone."""
    base, out = save(name, tmp_path), tmp_path / "out"
    tensors = dict(read_tensors(base))
    save_file(tensors | {HEAD: tensors[embedding].clone()}, base / WEIGHTS)
    moved = tensors | {embedding: tensors[embedding] + 1}
    write_checkpoint(out, base, sizes(moved), moved.items())
    model = load(out)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    state = model.state_dict()
    assert equal({key: state[key] for key in moved}, moved)

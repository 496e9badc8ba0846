"""Writing checkpoints: another one of the same kind, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.torch import save_file

from sglang_mezo_plugin.errors import UserError
from sglang_mezo_plugin.models.checkpoint import OTHER_FORMATS, one_line, read_config

SHARD_BYTES = 5 * 2**30
# Not copied beside new weights: other weights, and what only describes them.
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".index.json", *OTHER_FORMATS)
WEIGHTS, INDEX = "model{suffix}.safetensors", "model.safetensors.index.json"


def write_checkpoint(
    folder: Path, base: Path, sizes: Mapping[str, int], tensors: Iterable[tuple[str, torch.Tensor]]
) -> None:
    """Write tensors as safetensors in shards, with the files of `base` beside them, its weights apart.

    sizes: bytes of each tensor that will come, by name and in the same order: by them huggingface_hub deals
    the tensors out to files. tensors: by name, on the CPU; taken one at a time. In memory are a file's
    tensors, SHARD_BYTES or a tensor that is larger, and the next tensor. The folder appears when it is
    complete, in place of one of the same name.

    UserError if it cannot be written. KeyError for a tensor without a size, ValueError for one that does not
    come.
    """
    with writing_folder(folder) as unfinished:
        for file in base.iterdir():
            if file.is_file() and not file.name.endswith(WEIGHT_SUFFIXES):
                shutil.copyfile(file, unfinished / file.name)
        dtype = _write_shards(unfinished, sizes, tensors)
        config = read_config(unfinished)
        for key in {"dtype", "torch_dtype"} & config.keys() or {"torch_dtype"}:
            config[key] = str(dtype).removeprefix("torch.")
        (unfinished / "config.json").write_text(json.dumps(config, indent=2) + "\n")


@contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write to, which then takes the name of `folder`; after an error, it does not.

    UserError if something cannot be written.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        replace_folder(unfinished, folder)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{folder} cannot be written ({one_line(error)}): mend that, or choose another"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def replace_folder(finished: Path, folder: Path) -> None:
    """Give a finished folder its name, in place of one that has it.

    A kill in between leaves the old one, whole, under its name or with ".old" after it.
    """
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    finished.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_shards(
    folder: Path, sizes: Mapping[str, int], tensors: Iterable[tuple[str, torch.Tensor]]
) -> torch.dtype:
    """Return the dtype that most of the bytes have."""
    plan = split_state_dict_into_shards_factory(
        dict(sizes), get_storage_size=int, filename_pattern=WEIGHTS, max_shard_size=SHARD_BYTES
    )
    shards: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    missing = set(sizes)
    bytes_of: Counter[torch.dtype] = Counter()
    for name, tensor in tensors:
        file = plan.tensor_to_filename[name]
        if name not in missing:
            continue  # the base has it in two of its files
        missing.remove(name)
        # A copy: tied weights of a .bin file share memory, which safetensors refuses.
        shards[file][name] = tensor.clone(memory_format=torch.contiguous_format)
        bytes_of[tensor.dtype] += tensor.nbytes
        if len(shards[file]) == len(plan.filename_to_tensors[file]):
            # Its memory is free before the next tensor is made.
            save_file(shards.pop(file), folder / file, metadata={"format": "pt"})
    if missing:
        raise ValueError(f"no tensor came for {', '.join(sorted(missing))}")
    if plan.is_sharded:
        index = {"metadata": {"total_size": bytes_of.total()}, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")
    return bytes_of.most_common(1)[0][0]

"""An adapter on its way to a server: as bytes in a request, or as a PEFT folder that both can read."""

from __future__ import annotations

import base64
import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sglang_mezo_plugin.models.peft_files import CONFIG, WEIGHTS

if TYPE_CHECKING:
    import torch


def json_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return PEFT's configuration, as `LoraConfig.to_dict` has it, as its file does."""
    return json.loads(json.dumps(config, default=sorted))  # PEFT keeps names of modules in sets


def serialize(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return tensors as /load_lora_adapter_from_tensors takes them: pickled, in base64.

    By plain pickle. SGLang's own MultiprocessingSerializer, which its Engine uses, passes tensors of a CPU as
    handles of shared memory, which a server that is not a child of this process cannot open. Both are read by
    SGLang's SafeUnpickler.
    """
    return base64.b64encode(pickle.dumps(_own(tensors), protocol=4)).decode()


@contextmanager
def peft_folder(
    parent: Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> Iterator[Path]:
    """Write an adapter to a new folder in `parent`, which is removed at the end.

    SGLang keeps an adapter's tensors in memory: it reads the folder just once.
    """
    from safetensors.torch import save_file

    with TemporaryDirectory(prefix="adapter-", dir=parent) as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)  # the server may be another user's
        save_file(_own(tensors), folder / WEIGHTS)
        (folder / CONFIG).write_text(json.dumps(json_config(config)))
        yield folder


def _own(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return tensors with a storage each: pickle writes all of a view's, safetensors refuses to share."""
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}

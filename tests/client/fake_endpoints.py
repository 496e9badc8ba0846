"""What SGLang 0.5.23 answers at the endpoints for adapters and completions, with its texts.

An adapter's answer is its tensor's number and the prompt: "3.0 says hi". The base model says "base says hi".
Tensors are read by SGLang's own unpickler, whose source is taken from the installed package.
"""

from __future__ import annotations

import ast
import base64
import importlib.util
import io
import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file

if TYPE_CHECKING:
    from fake_server import FakeServer

MODEL = "base-model"


@cache
def sglang_unpickler() -> type:
    """Return SafeUnpickler, compiled from the file that holds it: importing SGLang takes many seconds."""
    package = Path(importlib.util.find_spec("sglang").origin).parent
    tree = ast.parse((package / "srt/utils/common.py").read_text())
    wanted = {"SafeUnpickler", "_safe_load_torch_storage"}
    nodes = [node for node in tree.body if getattr(node, "name", None) in wanted]
    names: dict[str, Any] = {}
    exec("import io, pickle, torch", names)
    exec(compile(ast.Module(nodes, []), "common.py", "exec"), names)
    return names["SafeUnpickler"]


class Endpoints:
    """A method for each path, with underscores for slashes; returns HTTP's status and what the JSON says."""

    fake: FakeServer

    def _server_info(self, body: dict[str, Any]) -> tuple[int, object]:
        return 200, self.fake.info

    _get_server_info = _server_info

    def _v1_models(self, body: dict[str, Any]) -> tuple[int, object]:
        names = [*self.fake.adapters, *self.fake.others]
        cards = [{"id": MODEL, "root": MODEL, "parent": None}, *({"id": n, "parent": MODEL} for n in names)]
        return 200, {"object": "list", "data": cards}

    def _load_lora_adapter_from_tensors(self, body: dict[str, Any]) -> tuple[int, object]:
        payloads = body["serialized_named_tensors"]
        assert len(payloads) == self.fake.info["tp_size"]
        return self.load(body, self.fake.unpickler(io.BytesIO(base64.b64decode(payloads[-1]))).load())

    def _load_lora_adapter(self, body: dict[str, Any]) -> tuple[int, object]:
        folder = Path(body["lora_path"])
        config = json.loads((folder / "adapter_config.json").read_text())
        return self.load({**body, "config_dict": config}, load_file(folder / "adapter_model.safetensors"))

    def load(self, body: dict[str, Any], tensors: dict[str, Any]) -> tuple[int, object]:
        fake, name, config = self.fake, body["lora_name"], body["config_dict"]
        targets = fake.info["lora_target_modules"]
        message = ""
        if name in fake.adapters:
            message = f"Failed to load LoRA adapter {name} because it is already loaded"
        elif config["r"] > (fake.info["max_lora_rank"] or 8) or set(config["target_modules"]) - set(targets):
            message = (
                f"LoRA adapter {name} with rank {config['r']} is incompatible with the current LoRA "
                "memory pool configuration. Please ensure that the LoRA adapter's rank is within the "
                "configured `--max-lora-rank` and that the target modules "
                "are included in `--lora-target-modules`."
            )
        else:
            fake.adapters[name] = next(iter(tensors.values())).flatten()[0].item()
            fake.known.add(name)
            fake.most_loaded = max(fake.most_loaded, len(fake.adapters))
        found = {"success": not message, "error_message": message, "loaded_adapters": {}}
        return 400 if message else 200, found

    def _unload_lora_adapter(self, body: dict[str, Any]) -> tuple[int, object]:
        fake, name = self.fake, body["lora_name"]
        if name not in fake.adapters:
            message = f"LoRA with name {name} does not exist. Loaded LoRAs: dict_keys({list(fake.adapters)})"
            return 400, {"success": False, "error_message": message, "loaded_adapters": None}
        assert fake.unused(name), f"{name} is still used"
        del fake.adapters[name]
        return 200, {"success": True, "error_message": "", "loaded_adapters": {}}

    def speak(self, adapter: str | None, prompt: object) -> str:
        if adapter is None:
            return f"base says {prompt}"
        if adapter not in self.fake.known:
            known = f"All loaded adapters: dict_keys({sorted(self.fake.known)})."
            raise LookupError(f"Got LoRA adapter that has never been loaded: {adapter}\n{known}")
        if adapter not in self.fake.adapters:
            reason = "Got: ConnectError: [Errno -2] Name or service not known\nAn error happened"
            raise LookupError(f"Failed to implicitly load LoRA adapter {adapter}: {reason}")
        return f"{self.fake.adapters[adapter]} says {prompt}"

    def _generate(self, body: dict[str, Any]) -> tuple[int, object]:
        try:
            text = self.speak(body["lora_path"], body.get("text") or body["input_ids"])
        except LookupError as error:
            return 400, {"error": {"message": str(error)}}
        meta = {"finish_reason": {"type": "stop", "matched": 2}, "prompt_tokens": 5, "completion_tokens": 3}
        return 200, {"text": text, "output_ids": [1, 2, 3], "meta_info": meta}

    def _v1_chat_completions(self, body: dict[str, Any]) -> tuple[int, object]:
        _, colon, adapter = body["model"].partition(":")
        try:
            text = self.speak(adapter if colon else body["lora_path"], body["messages"][-1]["content"])
        except LookupError as error:
            found = {
                "object": "error",
                "message": str(error),
                "type": "BadRequest",
                "param": None,
                "code": 400,
            }
            return 400, found
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "length"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 4}}
